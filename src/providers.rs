//! Sources of single providers, each a few lines over [`oauth2`](crate::oauth2) or [`json`](crate::json).

pub mod mesh_connect;
pub mod meshydb;
