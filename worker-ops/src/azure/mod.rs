//! Operations on Azure: Resource Manager, Resource Graph and the Log Analytics API, all of which only read here.
//!
//! It must never make a call that `inventory` or the supervisor's own table does not name, show a resource of a type that was not asked for,
//! or follow an answer to another host.

mod connect;
mod errors;
mod filter;
mod follow;
mod graph;
mod id;
mod lines;
mod logs;
mod request;
mod resources;
mod secret;
mod versions;

use shared_proto::failure::Code;
use shared_proto::inventory;
use shared_proto::v1::operation_request::What;
use shared_proto::v1::{AzureTarget, Outcome};

use self::connect::Account;
pub(crate) use self::secret::Secrets;
use crate::fault::Fault;
use crate::net::Dialer;
use crate::socket::Output;
use crate::steps::Steps;

/// Does one operation.
pub(crate) async fn serve(
    what: What,
    target: AzureTarget,
    steps: Steps,
    dialer: &Dialer,
    output: &mut Output,
) -> Result<Outcome, Fault> {
    let place = inventory::place(&what).to_owned();
    // what is of another provider is told so first
    let account = || Account::new(target, &place, dialer);
    match what {
        What::ConnectionTest(_) => request::connection_test(&mut account()?, steps, output).await,
        What::WhoAmI(_) => request::who_am_i(&mut account()?, output).await,
        What::ListPlaces(_) => request::list_subscriptions(&mut account()?, output).await,
        What::ListResources(list) => resources::list(&mut account()?, &list, output).await,
        What::GetResource(get) => resources::get(&mut account()?, &get, output).await,
        What::ListLogs(list) => logs::list(&mut account()?, &list, output).await,
        What::ReadLogs(read) => logs::read(&mut account()?, &read, output).await,
        _ => Err(Fault::new(Code::WrongProvider, "the operation is of another provider than azure")),
    }
}
