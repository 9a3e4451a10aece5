//! May this step reuse the last residual? Decides from numbers alone; knows no tensor, channel, clock or file
