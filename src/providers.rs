//! Sources for specific providers, each a thin wrapper of [`oauth2`](crate::oauth2) or [`json`](crate::json).

pub mod mesh_connect;
pub mod meshydb;
