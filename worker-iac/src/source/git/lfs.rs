//! What Git LFS keeps beside a repository, by the `git-lfs` program: from the repository's own server, whatever the source says of another.

use super::repository::Repository;
use crate::stop::Stop;
use shared_proto::failure::Code;

/// What `git lfs install` writes into a configuration, and no configuration of the machine is read here: without it `git lfs pull` fetches, leaves
/// the pointers where they are, and says that all is well.
const FILTER: [&str; 3] =
    ["filter.lfs.clean=git-lfs clean -- %f", "filter.lfs.smudge=git-lfs smudge -- %f", "filter.lfs.required=true"];

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
    let settings = [&remote, &server, "lfs.fetchexclude=", "lfs.fetchinclude="];
    let arguments: Vec<_> = settings.into_iter().chain(FILTER).flat_map(|one| ["-c", one]).collect();
    repository
        .run(&[&arguments[..], &["lfs", "pull"]].concat())
        .await?
        .must(Code::SourceUnavailable, &format!("fetch what Git LFS keeps for {url}"))
}
