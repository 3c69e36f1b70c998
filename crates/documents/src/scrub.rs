//! stub
pub(crate) fn names_people(_t:&str)->bool{false}
pub(crate) fn is_front_note(_t:&str)->bool{false}
