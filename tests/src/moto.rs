//! The AWS stand-in: moto's server, real HTTP with requests that are signed and parsed.

use crate::https::{Answer, Client};
use crate::process::{Process, Program};
use anyhow::{Context as _, Result, ensure};
use hyper::Method;
use std::net::SocketAddr;
use std::time::Duration;

/// A running moto with nothing in it.
pub struct Moto {
    _process: Process,
    client: Client,
    address: SocketAddr,
}

impl Moto {
    /// Starts one.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }
    /// One that after so many requests lets nobody do what neither his signature nor his policies say that he may.
    ///
    /// # Errors
    /// It does not start.
    pub async fn strict(after: u32) -> Result<Self> {
        Self::start_with(&[("INITIAL_NO_AUTH_ACTION_COUNT", &after.to_string())]).await
    }
    async fn start_with(environment: &[(&str, &str)]) -> Result<Self> {
        let program = Program::component("moto_server")?
            .named("moto")
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONUNBUFFERED", "1");
        let program = environment.iter().fold(program, |program, (name, value)| program.env(name, *value));
        let process = program.start()?;
        let line = process
            .ready(Duration::from_secs(60), "moto serves", |l| l.contains("Running on http://127.0.0.1:"))
            .await?;
        let port = line.rsplit(':').next().and_then(|p| {
            let digits: String = p.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u16>().ok()
        });
        let address = SocketAddr::from(([127, 0, 0, 1], port.with_context(|| format!("a port in {line:?}"))?));
        Ok(Self { _process: process, client: Client::plain(address), address })
    }
    /// What a runner's entry names as `endpoint_url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
    /// Plain requests.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A request with a signature that moto parses and does not verify.
    ///
    /// # Errors
    /// No answer.
    pub async fn call(
        &self,
        service: &str,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer> {
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20260101/eu-central-1/{service}/aws4_request, \
             SignedHeaders=host;x-amz-date, Signature=00"
        );
        let mut all = vec![("authorization", authorization.as_str()), ("x-amz-date", "20260101T000000Z")];
        all.extend_from_slice(headers);
        self.client.request(method, path, &all, body.to_owned()).await
    }

    /// Makes a bucket with a tag.
    ///
    /// # Errors
    /// moto refuses.
    pub async fn bucket(&self, name: &str, tag: (&str, &str)) -> Result<()> {
        let body = "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>\
                    eu-central-1</LocationConstraint></CreateBucketConfiguration>";
        let answer = self.call("s3", Method::PUT, &format!("/{name}"), &[], body).await?;
        ensure!(answer.status.is_success(), "bucket {name}: {} {}", answer.status, answer.text());
        let body =
            format!("<Tagging><TagSet><Tag><Key>{}</Key><Value>{}</Value></Tag></TagSet></Tagging>", tag.0, tag.1);
        let answer = self.call("s3", Method::PUT, &format!("/{name}?tagging"), &[], &body).await?;
        ensure!(answer.status.is_success(), "tags of {name}: {} {}", answer.status, answer.text());
        Ok(())
    }

    /// A call of IAM's; what is answered.
    ///
    /// # Errors
    /// moto refuses.
    pub async fn iam(&self, form: &str) -> Result<String> {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let answer = self.call("iam", Method::POST, "/", &headers, &format!("Version=2010-05-08&{form}")).await?;
        ensure!(answer.status.is_success(), "{form}: {} {}", answer.status, answer.text());
        Ok(answer.text())
    }

    /// The names of the objects of a bucket.
    ///
    /// # Errors
    /// moto refuses.
    pub async fn keys(&self, bucket: &str) -> Result<Vec<String>> {
        let answer = self.call("s3", Method::GET, &format!("/{bucket}?list-type=2"), &[], "").await?;
        ensure!(answer.status.is_success(), "the keys of {bucket}: {} {}", answer.status, answer.text());
        let text = answer.text();
        let keys = text.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
        Ok(keys.map(|(key, _)| key.to_owned()).collect())
    }
    /// An object's content; none: there is none.
    ///
    /// # Errors
    /// No answer.
    pub async fn object(&self, bucket: &str, key: &str) -> Result<Option<Vec<u8>>> {
        let answer = self.call("s3", Method::GET, &format!("/{bucket}/{key}"), &[], "").await?;
        Ok(answer.status.is_success().then(|| answer.body.to_vec()))
    }
    /// Makes or replaces an object.
    ///
    /// # Errors
    /// moto refuses.
    pub async fn put_object(&self, bucket: &str, key: &str, text: &str) -> Result<()> {
        let answer = self.call("s3", Method::PUT, &format!("/{bucket}/{key}"), &[], text).await?;
        ensure!(answer.status.is_success(), "{bucket}/{key}: {} {}", answer.status, answer.text());
        Ok(())
    }

    /// Who moto says the caller is: the account, the ARN.
    ///
    /// # Errors
    /// No such answer.
    pub async fn caller_identity(&self) -> Result<(String, String)> {
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let answer =
            self.call("sts", Method::POST, "/", &form, "Action=GetCallerIdentity&Version=2011-06-15").await?.text();
        let between = |tag: &str| -> Option<String> {
            let start = answer.find(&format!("<{tag}>"))? + tag.len() + 2;
            Some(answer[start..start + answer[start..].find('<')?].to_owned())
        };
        Ok((between("Account").context(answer.clone())?, between("Arn").context(answer.clone())?))
    }
}
