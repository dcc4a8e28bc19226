//! Operations on a Kubernetes cluster, as `kubectl` does them.
//!
//! Written on plain HTTP rather than on a client library: a refused upgrade must keep the API server's own words, standard input and
//! output of a command must move independently of each other, and a process that lives for one request pays for every layer.

mod connect;
mod errors;
mod exec;
mod inventory;
mod mask;
mod pass;
mod permissions;
mod request;
mod secret;
mod status;
mod stream;
mod token;

pub(crate) use self::secret::Secrets;
pub(crate) use self::token::bound;

use shared_proto::failure::Code;
use shared_proto::v1::operation_request::What;
use shared_proto::v1::{KubernetesTarget, Masking, Outcome};

use self::connect::Cluster;
use crate::fault::Fault;
use crate::net::{Dialer, Stream};
use crate::socket::{Input, Output};
use crate::steps::Steps;

/// A connection to a cluster's API server, over which nothing was said yet.
///
/// # Errors
/// A target that is none, or that is not reached.
pub(crate) async fn connection(target: KubernetesTarget, dialer: &Dialer) -> Result<Stream, Fault> {
    Cluster::new(target, None, dialer)?.endpoint().connect().await
}

/// Does one operation. `connection`: one that is there.
pub(crate) async fn serve(
    what: What,
    (target, connection): (KubernetesTarget, Option<Stream>),
    masking: Option<Masking>,
    steps: Steps,
    dialer: &Dialer,
    input: &mut Input,
    output: &mut Output,
) -> Result<Outcome, Fault> {
    let mut cluster = Cluster::new(target, connection, dialer)?;
    let namespace = namespace(&what).map(|asked| cluster.namespace(asked).to_owned());
    let done = match what {
        What::ConnectionTest(_) => request::connection_test(&mut cluster, steps, output).await,
        What::WhoAmI(_) => inventory::who_am_i(&mut cluster, output).await,
        What::ListPlaces(_) => inventory::list_places(&mut cluster, output).await,
        What::ListResources(list) => inventory::list(&mut cluster, &list, output).await,
        What::K8sListNamespaces(_) => request::list_namespaces(&mut cluster, output).await,
        What::K8sListPods(list) => request::list_pods(&mut cluster, &list, output).await,
        What::K8sDescribePod(describe) => request::describe_pod(&mut cluster, &describe, output).await,
        What::K8sLogs(logs) => stream::logs(&mut cluster, &logs, output).await,
        What::K8sExec(exec) => exec::exec(&mut cluster, exec, input, output).await,
        What::K8sRequest(request) => pass::pass(&cluster, request, masking, input, output).await,
        What::ProbePermissions(probe) => permissions::probe(&mut cluster, &probe, output).await,
        _ => Err(Fault::new(Code::WrongProvider, "the operation is of another provider than kubernetes")),
    };
    done.map_err(|fault| match namespace {
        // it may be in another: whoever asked may not know which one was taken
        Some(namespace) if fault.code() == Code::TargetNotFound => fault.looked_in(&format!("namespace {namespace}")),
        _ => fault,
    })
}

/// The namespace that is asked for, of what is in one; empty: the connection's own.
fn namespace(what: &What) -> Option<&str> {
    match what {
        What::K8sDescribePod(describe) => Some(&describe.namespace),
        What::K8sLogs(logs) => Some(&logs.namespace),
        What::K8sExec(exec) => Some(&exec.namespace),
        _ => None,
    }
}
