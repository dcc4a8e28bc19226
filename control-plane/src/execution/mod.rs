//! The execution service.
use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
/// Stub while the store is written.
#[derive(Clone)]
pub struct Execution;
impl Execution {
    /// Serves.
    pub async fn serve<T>(&self, _io: T, _chain: Vec<CertificateDer<'static>>, _peer: &str, _stop: CancellationToken) {}
}
