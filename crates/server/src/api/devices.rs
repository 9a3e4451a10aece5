//! The workers' devices, and where the parts of their models are.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use utoipa::ToSchema;

/// The device of a worker. The worker's thread adds what only the loaded model knows; clones share it.
#[derive(Clone, Debug)]
pub struct WorkerDevice {
    /// As `--device` names it, e.g. `cuda:0`.
    pub device: String,
    /// The GPU, if it is one.
    pub gpu: Option<WorkerGpu>,
    parts: Arc<Mutex<Vec<ModelPart>>>,
}

/// A GPU and how it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct WorkerGpu {
    /// Name that the driver reports.
    pub name: String,
    /// E.g. `9.0`.
    pub compute_capability: String,
    /// Bytes of device memory.
    pub memory_bytes: u64,
    /// How attention is computed.
    pub attention: &'static str,
}

/// Where a part of a model is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ModelPart {
    /// Name in words: `text encoder`.
    pub name: &'static str,
    /// Bytes that stay on the device.
    pub device_bytes: u64,
    /// Bytes in host memory that are copied to the device when they are needed.
    pub host_bytes: u64,
}

impl WorkerDevice {
    /// A device with this name.
    pub fn new(device: impl Into<String>, gpu: Option<WorkerGpu>) -> Self {
        WorkerDevice { device: device.into(), gpu, parts: Arc::default() }
    }

    /// Records the parts of the model that the worker has loaded.
    pub fn holds(&self, parts: Vec<ModelPart>) {
        *self.parts.lock().unwrap_or_else(PoisonError::into_inner) = parts;
    }

    pub(crate) fn parts(&self) -> Vec<ModelPart> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
