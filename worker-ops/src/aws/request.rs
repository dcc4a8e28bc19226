//! Who the connection's credentials are, and which regions there are.

use shared_proto::aws::Endpoint;
use shared_proto::documents::{ConnectionReport, Identity, Place, Places};
use shared_proto::v1::Outcome;

use super::connect::{Account, EC2, STS, malformed};
use super::tree;
use crate::document::Document;
use crate::fault::{Fault, done};
use crate::socket::Output;
use crate::steps::Steps;

/// Reaches STS and says who the credentials are.
pub(crate) async fn connection_test(
    account: &Account,
    mut steps: Steps,
    output: &mut Output,
) -> Result<Outcome, Fault> {
    let host = Endpoint::of(STS.signing, account.region()).host;
    let identity = steps.identified(host, identity(account).await)?;
    let report = ConnectionReport {
        provider: "aws".to_owned(),
        identity: identity.principal,
        version: None,
        steps: steps.into_inner(),
    };
    Document::whole(output, &report).await?;
    Ok(done())
}

/// Account, ARN and unique id.
pub(crate) async fn who_am_i(account: &Account, output: &mut Output) -> Result<Outcome, Fault> {
    let identity = identity(account).await?;
    Document::whole(output, &identity).await?;
    Ok(done())
}

/// The regions that are enabled for the account.
pub(crate) async fn list_regions(account: &Account, output: &mut Output) -> Result<Outcome, Fault> {
    let answer = account.ask(EC2)?.call("DescribeRegions", "", Vec::new()).await?;
    let items = tree::at(&answer, "regionInfo/item").into_iter().map(|region| Place {
        name: tree::text(region, "regionName"),
        kind: "region".to_owned(),
        title: String::new(),
        state: tree::text(region, "optInStatus"),
    });
    let items = items.filter(|region| !region.name.is_empty()).collect();
    Document::whole(output, &Places { items }).await?;
    Ok(done())
}

pub(super) async fn identity(account: &Account) -> Result<Identity, Fault> {
    let answer = account.ask(STS)?.call("GetCallerIdentity", "", Vec::new()).await?;
    let field = |name| tree::text(&answer, &format!("GetCallerIdentityResult/{name}"));
    let principal = field("Arn");
    if principal.is_empty() {
        return Err(malformed("sts", "it names no one"));
    }
    Ok(Identity {
        provider: "aws".to_owned(),
        principal,
        id: field("UserId"),
        account: field("Account"),
        place: Some(account.region().to_owned()),
    })
}
