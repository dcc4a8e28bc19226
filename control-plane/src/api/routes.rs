//! Routes that are written down as they are added, so that a test can hold them against the OpenAPI document.

use super::ApiState;
use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};
use std::time::Duration;

/// How long a request may take until its answer begins, unless the route is a stream or takes a large body.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A router of [`ApiState`] that remembers its routes.
pub(crate) struct Routes {
    router: Router<ApiState>,
    /// Method in lower case, and the path as the OpenAPI document has it.
    pub(crate) listed: Vec<(&'static str, String)>,
}

// === impl Routes ===

impl Routes {
    /// No routes yet.
    pub(crate) fn new() -> Self {
        Self { router: Router::new(), listed: Vec::new() }
    }
    /// Adds a route under `/api/v1` whose answer begins within [`DEADLINE`].
    pub(crate) fn add<H, T>(self, method: &'static str, path: &str, handler: H) -> Self
    where
        H: Handler<T, ApiState>,
        T: 'static,
    {
        let route = on(filter(method), handler).layer(axum::middleware::from_fn(super::deadline));
        self.insert(method, path, route)
    }
    /// Adds a route under `/api/v1` that may take as long as it likes: a stream, or a large body with a bound of its own.
    pub(crate) fn add_stream<H, T>(self, method: &'static str, path: &str, handler: H) -> Self
    where
        H: Handler<T, ApiState>,
        T: 'static,
    {
        self.insert(method, path, on(filter(method), handler))
    }
    /// The routes of both.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.listed.extend(other.listed);
        self
    }
    /// The router itself.
    pub(crate) fn into_router(self) -> Router<ApiState> {
        self.router
    }

    fn insert(mut self, method: &'static str, path: &str, route: MethodRouter<ApiState>) -> Self {
        let path = format!("/api/v1{path}");
        self.router = self.router.route(&path, route);
        self.listed.push((method, path));
        self
    }
}

fn filter(method: &str) -> MethodFilter {
    match method {
        "head" => MethodFilter::HEAD,
        "post" => MethodFilter::POST,
        "put" => MethodFilter::PUT,
        "delete" => MethodFilter::DELETE,
        _ => MethodFilter::GET,
    }
}
