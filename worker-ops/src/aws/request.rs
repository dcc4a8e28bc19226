//! Who the connection's credentials are, and which regions there are.

use shared_proto::documents::{ConnectionReport, Identity, Place, Places};
use shared_proto::failure::Code;
use shared_proto::v1::Outcome;

use super::connect::{Account, Service};
use super::xml;
use crate::document::Document;
use crate::fault::{Fault, done};
use crate::net::url;
use crate::socket::Output;

/// Reaches STS and says who the credentials are.
pub(crate) async fn connection_test(account: &mut Account, output: &mut Output) -> Result<Outcome, Fault> {
    let identity = identity(account).await?;
    let report = ConnectionReport { provider: "aws".to_owned(), identity: identity.principal, version: None };
    Document::whole(output, &report).await?;
    Ok(done())
}

/// Account, ARN and unique id.
pub(crate) async fn who_am_i(account: &mut Account, output: &mut Output) -> Result<Outcome, Fault> {
    let identity = identity(account).await?;
    Document::whole(output, &identity).await?;
    Ok(done())
}

/// The regions that are enabled for the account.
pub(crate) async fn list_regions(account: &mut Account, output: &mut Output) -> Result<Outcome, Fault> {
    let form = url::form([("Action", "DescribeRegions"), ("Version", "2016-11-15")]);
    let answer = account.query(Service::Ec2, form).await?;
    let records = xml::records(&answer, "item").map_err(|e| malformed("ec2", &e))?;
    let items = records.into_iter().filter_map(|mut r| {
        Some(Place {
            name: r.remove("regionName")?,
            kind: "region".to_owned(),
            title: String::new(),
            state: r.remove("optInStatus").unwrap_or_default(),
        })
    });
    Document::whole(output, &Places { items: items.collect() }).await?;
    Ok(done())
}

async fn identity(account: &mut Account) -> Result<Identity, Fault> {
    let form = url::form([("Action", "GetCallerIdentity"), ("Version", "2011-06-15")]);
    let answer = account.query(Service::Sts, form).await?;
    let records = xml::records(&answer, "GetCallerIdentityResult").map_err(|e| malformed("sts", &e))?;
    let mut record = records.into_iter().next().ok_or_else(|| malformed("sts", "it names no one"))?;
    let mut field = |name| record.remove(name).unwrap_or_default();
    Ok(Identity {
        provider: "aws".to_owned(),
        principal: field("Arn"),
        id: field("UserId"),
        account: field("Account"),
        place: Some(account.region().to_owned()),
    })
}

fn malformed(service: &str, what: &str) -> Fault {
    Fault::new(Code::TargetFailed, format!("{service}: an answer is not what AWS sends: {what}"))
}
