//! What Git LFS keeps beside a repository, by the `git-lfs` program: from the repository's own server, whatever the source says of another.

use super::repository::Repository;
use crate::stop::Stop;
use shared_proto::failure::Code;

/// # Errors
/// `source_refused`: not from an address of HTTPS; `source_unavailable`: the program is not there, or fails.
pub(super) async fn fetch(repository: &mut Repository<'_, '_>) -> Result<(), Stop> {
    let url = repository.url.clone();
    if !url.starts_with("https://") {
        let next = "Give the source by its https:// address.";
        return Err(Code::SourceRefused.on("what Git LFS keeps is fetched by HTTPS alone").next(next).into());
    }
    let there = repository.run(&["lfs", "version"]).await?;
    if !there.ok {
        let next = "Install git-lfs on the runner's machine, or leave Git LFS out of the source.";
        return Err(Code::SourceUnavailable.on("the runner's machine has no git-lfs").next(next).into());
    }
    // the source's own .lfsconfig could name any server: this goes over it
    let path = if url.ends_with(".git") { url.clone() } else { format!("{url}.git") };
    let (remote, server) = (format!("remote.origin.url={url}"), format!("lfs.url={path}/info/lfs"));
    let arguments = ["-c", &remote, "-c", &server, "-c", "lfs.fetchexclude=", "-c", "lfs.fetchinclude=", "lfs", "pull"];
    repository.run(&arguments).await?.must(Code::SourceUnavailable, &format!("fetch what Git LFS keeps for {url}"))
}
