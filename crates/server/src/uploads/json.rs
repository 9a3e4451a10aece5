//! Reading a JSON body.

use super::body::Upload;
use crate::api::error::ApiError;
use crate::api::request::{Fields, json};

/// Reads the fields of a JSON object. Unless `keeps_pictures`, pictures are only counted.
///
/// A large body is parsed on a blocking thread, and its blocks are freed while it is read. With the values kept and the
/// text being read it reserves at most three times its size, and touches twice.
///
/// # Errors
/// The upload fails, or it is not a JSON object.
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
