//! stub
use crate::{Document, Finding};
pub(crate) fn find(_d:&Document)->Vec<Finding>{vec![]}
