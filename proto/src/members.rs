//! Who is a member, and what each tells about itself.
pub mod record;
