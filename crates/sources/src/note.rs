//! OpenReview's notes, both APIs as one value: content without wrappers, invitations by their last word.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a note is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A paper.
    Submission,
    /// A review.
    Review,
    /// The decision (2017: "acceptance").
    Decision,
    /// The meta-review; in 2019 it holds the decision.
    MetaReview,
    /// An answer of the authors, or a comment by whomever.
    Comment,
    /// The authors took the paper back.
    Withdrawal,
    /// The chairs refused it without review.
    DeskRejection,
    /// Something else.
    Other,
}

/// What became of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Accepted, at whatever level.
    Accepted,
    /// Rejected.
    Rejected,
    /// Taken back by its authors.
    Withdrawn,
    /// Refused without review.
    DeskRejected,
    /// Rejected or withdrawn: the source does not say which.
    RejectedOrWithdrawn,
    /// No decision is public.
    Unknown,
}

/// One note.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// Its id.
    pub id: String,
    /// The submission it belongs to.
    pub forum: String,
    /// The note it answers.
    pub replyto: Option<String>,
    /// Its number within its kind.
    pub number: Option<i64>,
    /// What it is.
    pub kind: Kind,
    /// All invitations, the one it was made by first.
    pub invitations: Vec<String>,
    /// Who wrote it.
    pub signatures: Vec<String>,
    /// Who may read it.
    pub readers: Vec<String>,
    /// The fields, without wrappers.
    pub content: Map<String, Value>,
    /// Created, milliseconds since 1970.
    pub created: Option<i64>,
    /// Changed last.
    pub modified: Option<i64>,
    /// Set if it was deleted.
    pub deleted: bool,
    /// "CC BY 4.0".
    pub license: Option<String>,
    /// The notes below it, where they came along.
    pub replies: Vec<Note>,
}

impl Note {
    /// A field as text; empty text is none.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.content.get(name)?.as_str().map(str::trim).filter(|t| !t.is_empty())
    }

    /// A field as a list of texts.
    pub fn list(&self, name: &str) -> Vec<String> {
        let items = self.content.get(name).and_then(Value::as_array);
        items.into_iter().flatten().filter_map(Value::as_str).map(String::from).collect()
    }

    /// True if everybody may read it and it was not deleted.
    pub fn is_public(&self) -> bool {
        !self.deleted && (self.readers.is_empty() || self.readers.iter().any(|r| r == "everyone"))
    }

    /// The replies of a kind that everybody may read.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Note> {
        self.replies.iter().filter(move |n| n.kind == kind && n.is_public())
    }

    /// What became of a submission: by its venue id (API 2 and later API 1), by notes of withdrawal, by the decision.
    pub fn state(&self) -> State {
        let venueid = self.text("venueid").unwrap_or_default();
        let last = venueid.rsplit('/').next().unwrap_or_default().to_lowercase();
        let submitted_to = self.invitations.first().map(String::as_str).unwrap_or_default().to_lowercase();
        if last.contains("withdrawn") || submitted_to.contains("withdrawn_submission") {
            return State::Withdrawn;
        }
        if last.contains("desk_reject") || submitted_to.contains("desk_reject") {
            return State::DeskRejected;
        }
        if self.of(Kind::Withdrawal).next().is_some() || self.text("withdrawal") == Some("Confirmed") {
            return State::Withdrawn;
        }
        if self.of(Kind::DeskRejection).next().is_some() {
            return State::DeskRejected;
        }
        if let Some(decision) = self.decision() {
            let decision = decision.to_lowercase();
            if decision.contains("withdraw") {
                return State::Withdrawn;
            }
            if decision.contains("reject") || decision.contains("not accept") {
                return State::Rejected;
            }
            if decision.contains("accept") || decision.contains("poster") || decision.contains("oral") {
                return State::Accepted;
            }
            // 2017: "Invite to Workshop Track" is no acceptance to the conference.
            if decision.contains("workshop") {
                return State::Rejected;
            }
        }
        if last.contains("reject") {
            return State::Rejected;
        }
        let venue = self.text("venue").unwrap_or_default().to_lowercase();
        if venue.starts_with("submitted to") {
            return State::Rejected;
        }
        if ["poster", "oral", "spotlight", "notable", "talk"].iter().any(|w| venue.contains(w)) {
            return State::Accepted;
        }
        State::Unknown
    }

    /// The decision in the source's own words: the decision note, in 2019 the meta-review, else the venue line.
    pub fn decision(&self) -> Option<&str> {
        let noted = self.of(Kind::Decision).find_map(|n| n.text("decision"));
        let meta = || self.of(Kind::MetaReview).find_map(|n| n.text("recommendation"));
        let venue = || self.text("venue").filter(|v| !v.to_lowercase().contains("withdrawn"));
        let venue =
            || venue().filter(|v| v.split_whitespace().count() > 2).filter(|v| !v.contains("Conference"));
        noted.or_else(meta).or_else(venue)
    }
}

/// What an invitation invites to: the part behind `/-/`, without the paper's number, in any spelling of the years.
pub(crate) fn kind_of(invitation: &str) -> Kind {
    let (place, last) = invitation.rsplit_once("/-/").unwrap_or(("", invitation));
    let mut words: Vec<String> = last.split('/').map(str::to_lowercase).collect();
    if words.first().is_some_and(|w| {
        let digits = w.trim_start_matches("paper").trim_start_matches("submission");
        digits.len() < w.len() && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    }) {
        words.remove(0);
    }
    let word = words.join("_");
    let _ = place;
    match word.as_str() {
        "submission"
        | "blind_submission"
        | "post_submission"
        | "withdrawn_submission"
        | "desk_rejected_submission" => Kind::Submission,
        "official_review" | "review" => Kind::Review,
        "decision" | "acceptance" | "acceptance_decision" => Kind::Decision,
        "meta_review" | "metareview" => Kind::MetaReview,
        "rebuttal" | "official_comment" | "public_comment" | "comment" => Kind::Comment,
        "withdrawal" | "withdraw" => Kind::Withdrawal,
        "desk_rejection" | "desk_reject" => Kind::DeskRejection,
        w if w.ends_with("official_comment") || w.ends_with("public_comment") => Kind::Comment,
        _ => Kind::Other,
    }
}

/// The notes of an answer and the number of all that there are. A note that is not of the known shape is named by its
/// place, and the others are kept.
///
/// # Errors
/// If the answer has no list of notes.
pub fn notes(body: &[u8]) -> Result<(Vec<Result<Note, String>>, Option<usize>), String> {
    let value: Value = serde_json::from_slice(body).map_err(|e| format!("no JSON ({e})"))?;
    let list = match &value {
        // A recorded list of replies.
        Value::Array(list) => list,
        _ => value["notes"].as_array().ok_or("the answer has no list of notes; has the API changed?")?,
    };
    let read =
        |(i, v): (usize, &Value)| note(v).ok_or_else(|| format!("note {} has no id or no content", i + 1));
    Ok((list.iter().enumerate().map(read).collect(), value["count"].as_u64().map(|n| n as usize)))
}

/// One note of either API.
fn note(value: &Value) -> Option<Note> {
    let text = |name: &str| value[name].as_str().map(String::from);
    let texts = |v: &Value| -> Vec<String> {
        v.as_array().into_iter().flatten().filter_map(Value::as_str).map(String::from).collect()
    };
    let id = text("id")?;
    let content = value["content"].as_object()?;
    let invitations = match text("invitation") {
        Some(one) => vec![one],
        None => texts(&value["invitations"]),
    };
    // Recorded replies may come without their wrapper of an envelope.
    let is_wrapped = value["version"] == 2 || text("invitation").is_none();
    let bare = |v: &Value| match v {
        Value::Object(o) if is_wrapped => o.get("value").cloned(),
        other => Some(other.clone()),
    };
    let content = content.iter().filter_map(|(k, v)| Some((k.clone(), bare(v)?))).collect();
    let mut kind = invitations.first().map_or(Kind::Other, |i| kind_of(i));
    if kind == Kind::Other && (text("forum").as_deref() == Some(id.as_str()) || value["replyto"].is_null()) {
        kind = Kind::Submission;
    }
    let details = &value["details"];
    let replies = ["replies", "directReplies"].iter().find_map(|n| details[*n].as_array());
    let mut replies: Vec<Note> = replies.into_iter().flatten().filter_map(note).collect();
    replies.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    let number = |name: &str| value[name].as_i64();
    Some(Note {
        forum: text("forum").unwrap_or_else(|| id.clone()),
        id,
        replyto: text("replyto"),
        number: number("number"),
        kind,
        invitations,
        signatures: texts(&value["signatures"]),
        readers: texts(&value["readers"]),
        content,
        created: number("tcdate").or_else(|| number("cdate")),
        modified: number("tmdate").or_else(|| number("mdate")),
        deleted: !value["ddate"].is_null(),
        license: text("license"),
        replies,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_years_spelling_of_an_invitation_means_the_same() {
        for (invitation, kind) in [
            ("ICLR.cc/2017/conference/-/paper12/official/review", Kind::Review),
            ("ICLR.cc/2017/conference/-/paper12/acceptance", Kind::Decision),
            ("ICLR.cc/2017/conference/-/submission", Kind::Submission),
            ("ICLR.cc/2018/Conference/-/Paper3/Official_Review", Kind::Review),
            ("ICLR.cc/2018/Conference/-/Acceptance_Decision", Kind::Decision),
            ("ICLR.cc/2019/Conference/-/Paper3/Meta_Review", Kind::MetaReview),
            ("ICLR.cc/2021/Conference/Paper3/-/Official_Review", Kind::Review),
            ("ICLR.cc/2021/Conference/Paper3/-/Withdraw", Kind::Withdrawal),
            ("ICLR.cc/2024/Conference/Submission9/-/Official_Review", Kind::Review),
            ("ICLR.cc/2024/Conference/Submission9/-/Decision", Kind::Decision),
            ("ICLR.cc/2024/Conference/Submission9/-/Desk_Rejection", Kind::DeskRejection),
            ("ICLR.cc/2024/Conference/Submission9/-/Official_Comment", Kind::Comment),
        ] {
            assert_eq!(kind_of(invitation), kind, "{invitation}");
        }
    }
}
