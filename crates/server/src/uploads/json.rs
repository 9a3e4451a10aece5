//! A JSON body, read as it was uploaded.

use super::body::Upload;
use crate::api::error::ApiError;
use crate::api::request::{Fields, json};

/// Reads the fields of a JSON object. Of pictures it is only known how many there are, unless `keeps_pictures`.
///
/// A large body is read on a blocking thread, and given back while it is: with what is kept of it, and with the text
/// that is being read, it has at most three times its bytes then, and touches two.
///
/// # Errors
/// The upload's own, or it is no JSON, or no object.
pub(super) async fn fields(upload: &mut Upload, keeps_pictures: bool) -> Result<Fields, ApiError> {
    let body = upload.body().await?;
    let Some(small) = body.in_one_piece() else {
        let twice = upload.reserve(body.len())?;
        let reading = tokio::task::spawn_blocking(move || {
            let _twice = twice;
            json::of_reader(body, keeps_pictures)
        });
        return reading.await.map_err(|err| ApiError::Internal(format!("reading a body: {err}")))?;
    };
    json::of_slice(small, keeps_pictures)
}
