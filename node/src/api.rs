//! stub
pub mod token;
