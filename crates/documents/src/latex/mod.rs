//! stub
use crate::read::ReadOptions; use crate::{Document, ReadError}; use std::path::Path;
pub(crate) fn gather_folder(_p:&Path,_o:&ReadOptions)->Result<Vec<(String,Vec<u8>)>,ReadError>{Ok(vec![])}
pub(crate) fn read_files(_f:Vec<(String,Vec<u8>)>,_m:Option<String>,_s:String,p:&Path,_o:&ReadOptions)->Result<Document,ReadError>{Err(ReadError::Empty{path:p.into(),reason:"latex".into()})}
pub(crate) fn read_archive(_b:&[u8],_s:String,p:&Path,_o:&ReadOptions)->Result<Document,ReadError>{Err(ReadError::Empty{path:p.into(),reason:"latex".into()})}
