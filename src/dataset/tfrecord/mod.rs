//! TFRecord files.

mod example;
mod frames;
mod source;
