//! Operations on an AWS account: signed requests to STS, EC2, Cloud Control and the Tagging API, all of which read, and whatever a client
//! of AWS itself asks for.

mod connect;
mod errors;
mod pass;
mod request;
mod resources;
mod xml;

use shared_proto::failure::Code;
use shared_proto::v1::operation_request::What;
use shared_proto::v1::{AwsTarget, Outcome};

use self::connect::Account;
use crate::fault::Fault;
use crate::net::Dialer;
use crate::socket::{Input, Output};

/// Does one operation.
pub(crate) async fn serve(
    what: What,
    target: AwsTarget,
    dialer: &Dialer,
    input: &mut Input,
    output: &mut Output,
) -> Result<Outcome, Fault> {
    if let What::AwsRequest(request) = what {
        return pass::pass(target, request, dialer, input, output).await;
    }
    let asked = match &what {
        What::WhoAmI(r) => r.place.as_str(),
        What::ListPlaces(r) => r.place.as_str(),
        What::ListResources(r) => r.place.as_str(),
        What::GetResource(r) => r.place.as_str(),
        _ => "",
    };
    let mut account = Account::new(target, asked, dialer)?;
    match what {
        What::ConnectionTest(_) => request::connection_test(&mut account, output).await,
        What::WhoAmI(_) => request::who_am_i(&mut account, output).await,
        What::ListPlaces(_) => request::list_regions(&mut account, output).await,
        What::ListResources(list) => resources::list(&mut account, &list, output).await,
        What::GetResource(get) => resources::get(&mut account, &get, output).await,
        _ => Err(Fault::new(Code::WrongProvider, "the operation is of another provider")),
    }
}
