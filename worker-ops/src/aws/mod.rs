//! Operations on an AWS account: signed requests, all of which read, and whatever a client of AWS itself asks for.

mod arn;
mod connect;
mod errors;
mod kinds;
mod listing;
mod logs;
mod pass;
mod pattern;
mod permissions;
mod request;
mod resources;
mod secret;
pub(crate) mod session;
mod tree;
mod xml;

use shared_proto::failure::Code;
use shared_proto::inventory;
use shared_proto::v1::operation_request::What;
use shared_proto::v1::{AwsTarget, Outcome};

use self::connect::Account;
pub(crate) use self::secret::Secrets;
use crate::fault::Fault;
use crate::net::Dialer;
use crate::socket::{Input, Output};
use crate::steps::Steps;

/// Does one operation.
pub(crate) async fn serve(
    what: What,
    target: AwsTarget,
    (steps, again): (Steps, bool),
    dialer: &Dialer,
    input: &mut Input,
    output: &mut Output,
) -> Result<Outcome, Fault> {
    if let What::AwsRequest(request) = what {
        return pass::pass(target, request, again, dialer, input, output).await;
    }
    let place = inventory::place(&what).to_owned();
    // what is of another provider is told so first
    let account = || Account::new(target, &place, dialer);
    match what {
        What::ConnectionTest(_) => request::connection_test(&account()?, steps, output).await,
        What::WhoAmI(_) => request::who_am_i(&account()?, output).await,
        What::ListPlaces(_) => request::list_regions(&account()?, output).await,
        What::ListResources(list) => resources::list(&account()?, &list, output).await,
        What::GetResource(get) => resources::get(&account()?, &get, output).await,
        What::ListLogs(list) => logs::list(&account()?, &list, output).await,
        What::ReadLogs(read) => logs::read(&account()?, &read, output).await,
        What::ProbePermissions(probe) => permissions::probe(&account()?, &probe, output).await,
        _ => Err(Fault::new(Code::WrongProvider, "the operation is of another provider than aws")),
    }
}
