//! What requests to the API carry: JSON bodies, query parameters, cursors.
//!
//! - A request is refused as a problem document, never as a fault of ours; or it gives a row, a limit within its
//!   bounds, a cursor that is written as it was read.
//!
//! The first byte says what the rest is.

pub use self::binary::admin_request;

// The binary's own modules, not copies: of a crate that has no library. What they offer can be used beside them only.
#[allow(dead_code, reason = "a part of the binary is used here")]
#[path = "../../crates/edgeproxy/src/admin"]
mod binary {
    mod backend_fields;
    mod input;
    mod page;
    mod problem;

    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use axum::body::Body as Bytes;
    use axum::extract::{FromRequest, FromRequestParts, Request};
    use axum::http::{Response, StatusCode, header};
    use axum::response::IntoResponse;
    use tokio::runtime::Runtime;

    use backend_fields::BackendFields;
    use input::{Body, Parameters};
    use problem::Problem;

    /// Whatever bytes: see the head of this module.
    pub fn admin_request(data: &[u8]) {
        let Some((kind, rest)) = data.split_first() else { return };
        let refused = match kind % 3 {
            0 => body(rest).err(),
            1 => query(rest).err(),
            _ => cursor(rest).err(),
        };
        if let Some(problem) = refused {
            check(problem.into_response());
        }
    }

    fn body(bytes: &[u8]) -> Result<(), Problem> {
        let request =
            Request::builder().header(header::CONTENT_TYPE, "application/json").body(Bytes::from(bytes.to_vec()));
        let request = request.expect("a request that is always the same");
        let fields = wait(Body::<BackendFields>::from_request(request, &()))?;
        let raw = fields.value.into_raw()?;
        crate::backend_row::check(raw);
        Ok(())
    }

    fn query(bytes: &[u8]) -> Result<(), Problem> {
        let target = [b"/api/v1/backends?", bytes].concat();
        // What is no address is refused before it comes to us.
        let Ok(request) = Request::builder().uri(target.as_slice()).body(()) else { return Ok(()) };
        let (mut parts, ()) = request.into_parts();
        let Parameters(found) = wait(Parameters::<BTreeMap<String, String>>::from_request_parts(&mut parts, &()))?;
        let limit = page::limit(found.get("limit").map(String::as_str))?;
        assert!((1..=1000).contains(&limit), "{limit}");
        found.get("cursor").map_or(Ok(()), |text| cursor(text.as_bytes()))
    }

    fn cursor(bytes: &[u8]) -> Result<(), Problem> {
        let Ok(text) = std::str::from_utf8(bytes) else { return Ok(()) };
        if let Ok(name) = page::name_of_cursor(text) {
            assert_eq!(page::cursor_of_name(&name), text.to_ascii_lowercase());
        }
        let number = page::number_of_cursor(text)?;
        assert_eq!(page::number_of_cursor(&page::cursor_of_number(number)).ok(), Some(number));
        Ok(())
    }

    fn check(response: Response<Bytes>) {
        let status = response.status();
        assert!(status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT, "{status}");
        let body = wait(axum::body::to_bytes(response.into_body(), usize::MAX)).expect("a body in memory");
        let document: serde_json::Value = serde_json::from_slice(&body).expect("a problem document is JSON");
        assert_eq!(document["status"], status.as_u16());
        assert!(document["detail"].is_string(), "{document}");
    }

    fn wait<T>(work: impl Future<Output = T>) -> T {
        thread_local! {
            static RUNTIME: RefCell<Runtime> = RefCell::new(
                tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime of one thread")
            );
        }
        RUNTIME.with_borrow(|runtime| runtime.block_on(work))
    }
}
