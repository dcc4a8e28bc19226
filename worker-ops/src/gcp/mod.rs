//! Operations on projects of Google Cloud: who the credentials are, which projects there are, resources and logs. All of them read.
//!
//! It must never ask a service, or by a method, that shared-proto's `inventory` and the supervisor do not name for the operation: the
//! runner's policy would not have been asked.

mod connect;
mod entry;
mod errors;
mod logs;
mod request;
mod resources;
mod search;
mod secret;
mod shapes;

use shared_proto::failure::Code;
use shared_proto::inventory;
use shared_proto::v1::operation_request::What;
use shared_proto::v1::{GcpTarget, Outcome};

use self::connect::Projects;
pub(crate) use self::secret::Secrets;
use crate::fault::Fault;
use crate::net::Dialer;
use crate::socket::Output;
use crate::steps::Steps;

/// Does one operation.
pub(crate) async fn serve(
    what: What,
    target: GcpTarget,
    steps: Steps,
    dialer: &Dialer,
    output: &mut Output,
) -> Result<Outcome, Fault> {
    let place = inventory::place(&what).to_owned();
    // what is of another provider is told so first
    let projects = || Projects::new(target, &place, dialer);
    match what {
        What::ConnectionTest(_) => request::connection_test(&mut projects()?, steps, output).await,
        What::WhoAmI(_) => request::who_am_i(&mut projects()?, output).await,
        What::ListPlaces(_) => request::list_projects(&mut projects()?, output).await,
        What::ListResources(list) => resources::list(&mut projects()?, &list, output).await,
        What::GetResource(get) => resources::get(&mut projects()?, &get, output).await,
        What::ListLogs(list) => logs::list(&mut projects()?, &list, output).await,
        What::ReadLogs(read) => logs::read(&mut projects()?, &read, output).await,
        _ => Err(Fault::new(Code::WrongProvider, "the operation is of another provider than gcp")),
    }
}
