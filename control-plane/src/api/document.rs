//! The OpenAPI description, generated from the routes' own code.

use super::error::ErrorBody;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{Modify, OpenApi};

#[derive(OpenApi)]
#[openapi(
    info(title = "Runner control plane", description = "Every error has the shape of `ErrorBody`, with the status of its code. \
        What belongs to another organization gets what an unknown id gets."),
    components(schemas(ErrorBody, super::outcome::OutcomeBody)),
    security(("token" = [])),
    modifiers(&Common)
)]
struct Root;

struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        shared_proto::VERSION.clone_into(&mut document.info.version);
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("rnt_…").build();
        let components = document.components.get_or_insert_default();
        components.security_schemes.insert("token".to_owned(), SecurityScheme::Http(bearer));
    }
}

/// The whole description. Every operation also has the error's shape as its default answer.
pub(crate) fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = Root::openapi();
    for part in super::documents() {
        document.merge(part);
    }
    let error = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
    let error = ResponseBuilder::new().description("An error").content("application/json", error).build();
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.head];
        for operation in operations.into_iter().flatten() {
            // functions of two modules share a name, operations must not
            let tag = operation.tags.as_ref().and_then(|t| t.first()).cloned().unwrap_or_default();
            operation.operation_id = operation.operation_id.take().map(|name| format!("{tag}_{name}"));
            operation.responses.responses.insert("default".to_owned(), RefOr::T(error.clone()));
        }
    }
    document
}
