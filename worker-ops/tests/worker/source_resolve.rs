//! The resolver's entries of sources, against what gives tokens of GitHub's apps as its reference documents it: the signature is verified.

use anyhow::{Result, ensure};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use runner_tests::{Scratch, Suite};
use serde_json::{Value, json};
use shared_proto::v1::resolve_reply::Kind as Reply;
use shared_proto::v1::resolve_request::How;
use shared_proto::v1::{ResolveReply, ResolveRequest, ResolveSource};

use crate::harness::resolution;
use crate::server::{Asked, Server};

pub(crate) fn scenarios(suite: Suite) -> Suite {
    suite
        .needs(&[])
        .test("an_app_of_github_gets_a_token_for_its_installation", app)
        .test("what_gives_no_token_is_named_and_tells_no_secret", nothing)
}

async fn ask(how: ResolveSource) -> Result<ResolveReply> {
    let reply = resolution(&ResolveRequest { connection: "hub".into(), how: Some(How::Source(how)) }).await?;
    if let Some(Reply::Failure(outcome)) = &reply.kind {
        let said = format!("{outcome:?}");
        ensure!(said.contains("sources.hub: ") && !outcome.next_step.is_empty(), "{said}");
        ensure!(!said.contains("s3cr3t") && !said.contains("PRIVATE KEY") && !said.contains("eyJ"), "{said}");
    }
    Ok(reply)
}

fn how(folder: &Scratch, key: &str, url: &str) -> Result<ResolveSource> {
    let path = folder.write("app.pem", key)?;
    Ok(ResolveSource {
        pattern: "https://github.example/org/*".into(),
        kind: "github-app".into(),
        app_id: "123456".into(),
        installation_id: "42".into(),
        private_key_file: path.display().to_string(),
        api_url: url.into(),
        modules: true,
        ..Default::default()
    })
}

fn pem(pair: &KeyPair) -> Result<String> {
    let der: Pkcs8V1Der<'static> = pair.as_der()?;
    Ok(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref())))
}

/// <https://docs.github.com/en/rest/apps/apps#create-an-installation-access-token-for-an-app>
fn github(asked: &Asked, public: &[u8]) -> (u16, String) {
    let refuse = |status: u16, message: &str| (status, json!({ "message": message }).to_string());
    if asked.line.trim_end() != "POST /api/v3/app/installations/42/access_tokens HTTP/1.1" {
        return refuse(404, &format!("no {}", asked.line));
    }
    let jwt = asked.header("authorization").strip_prefix("Bearer ").unwrap_or_default().to_owned();
    let Some((input, signature)) = jwt.rsplit_once('.') else {
        return refuse(401, "A JSON web token could not be decoded");
    };
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public);
    if key.verify(input.as_bytes(), &signature).is_err() {
        return refuse(401, "A JSON web token could not be decoded");
    }
    let claims = input.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok()).unwrap_or_default();
    let claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
    let now = shared_proto::now_ms() / 1000;
    let (issued, ends) = (claims["iat"].as_i64().unwrap_or(i64::MAX), claims["exp"].as_i64().unwrap_or(i64::MAX));
    if claims["iss"] != "123456" || issued > now || ends > now + 600 || ends <= now {
        return refuse(401, "'Expiration time' claim ('exp') is too far in the future");
    }
    let body: Value = serde_json::from_str(&asked.body).unwrap_or_default();
    if body != json!({"permissions": {"contents": "read"}}) {
        return refuse(422, "The permissions requested are not granted to this installation.");
    }
    (201, json!({"token": "ghs_s3cr3t-token", "expires_at": "2999-01-01T00:00:00Z"}).to_string())
}

async fn app() -> Result<()> {
    let folder = Scratch::new("github-app")?;
    let pair = KeyPair::generate(KeySize::Rsa2048)?;
    let public = pair.public_key().as_ref().to_vec();
    let server = Server::start(move |asked, _| github(asked, &public)).await?;
    let reply = ask(how(&folder, &pem(&pair)?, &format!("{}/api/v3", server.url))?).await?;
    let access = match &reply.kind {
        Some(Reply::Source(access)) => access,
        Some(Reply::Failure(outcome)) => anyhow::bail!("{outcome:?}"),
        _ => anyhow::bail!("neither a source nor why there is none"),
    };
    ensure!((access.user.as_str(), access.password.as_str()) == ("x-access-token", "ghs_s3cr3t-token"));
    ensure!(access.entry == "hub" && access.pattern == "https://github.example/org/*" && access.modules);
    // another app's key
    let other = KeyPair::generate(KeySize::Rsa2048)?;
    let reply = ask(how(&folder, &pem(&other)?, &format!("{}/api/v3", server.url))?).await?;
    let Some(Reply::Failure(outcome)) = &reply.kind else { anyhow::bail!("a token") };
    ensure!(
        outcome.code == "credentials_unavailable" && outcome.message.contains("could not be decoded"),
        "{outcome:?}"
    );
    Ok(())
}

async fn nothing() -> Result<()> {
    let folder = Scratch::new("github-nothing")?;
    let key = pem(&KeyPair::generate(KeySize::Rsa2048)?)?;
    for (status, body, says) in [
        (200, String::new(), "is empty"),
        (201, json!({"token": "two words"}).to_string(), "not one word"),
        (201, json!({"token": 7}).to_string(), "is empty"),
        (500, "s3cr3t".to_owned(), "500"),
        (302, String::new(), "302"),
    ] {
        let server = Server::start(move |_, _| (status, body.clone())).await?;
        let reply = ask(how(&folder, &key, &server.url)?).await?;
        let Some(Reply::Failure(outcome)) = &reply.kind else { anyhow::bail!("a token") };
        ensure!(outcome.message.contains(says), "{says}: {outcome:?}");
    }
    let reply = ask(how(&folder, "no key", "http://127.0.0.1:1")?).await?;
    ensure!(matches!(&reply.kind, Some(Reply::Failure(o)) if o.message.contains("no key in PEM")));
    Ok(())
}
