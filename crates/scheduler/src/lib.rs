//! The waiting line, the batching policy and the worker threads; knows no tensor and no HTTP
