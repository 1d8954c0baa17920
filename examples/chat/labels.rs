//! Answers that carry the mark of their question
//! (<https://ircv3.net/specs/extensions/labeled-response>): they are kept until all are there, for it
//! depends on their number how they are marked.

use unbroken::Net;

use crate::caps::{BATCH, LABELED_RESPONSE};
use crate::clients::ClientId;
use crate::server::Chat;

/// Longest label, in bytes.
const LONGEST: usize = 64;

/// The answers to one question.
pub struct Answers {
    conn: ClientId,
    label: String,
    lines: Vec<(String, String)>,
}

impl Chat {
    /// From here on answers to this connection carry its label, if it gave one.
    pub fn label(&mut self, conn: ClientId, tags: &str) {
        let wanted = self.clients.get(conn).is_some_and(|client| client.caps.has(LABELED_RESPONSE));
        let label = tags.split(';').find_map(|tag| tag.strip_prefix("label=")).filter(|_| wanted);
        let label = label.filter(|label| !label.is_empty() && label.len() <= LONGEST);
        let answers = label.map(|label| Answers { conn, label: label.to_owned(), lines: Vec::new() });
        *self.answers.borrow_mut() = answers;
    }

    /// Keeps a line that answers a question with a label.
    pub fn is_answer(&self, conn: ClientId, tags: &str, line: &str) -> bool {
        match &mut *self.answers.borrow_mut() {
            Some(answers) if answers.conn == conn => {
                answers.lines.push((tags.to_owned(), line.to_owned()));
                true
            }
            _ => false,
        }
    }

    /// Who is being answered.
    pub fn answered(&self) -> Option<ClientId> {
        self.answers.borrow().as_ref().map(|answers| answers.conn)
    }

    /// All answers are there.
    pub fn answer_all(&mut self, net: &mut Net) {
        let Some(Answers { conn, label, lines }) = self.answers.take() else { return };
        let server = self.options.name.clone();
        let mark = format!("label={label}");
        let with = |tags: &str, more: &str| match tags {
            "" => more.to_owned(),
            tags => format!("{more};{tags}"),
        };
        let batched = self.clients.get(conn).is_some_and(|client| client.caps.has(BATCH));
        match &lines[..] {
            [] => self.send_tagged(net, conn, &mark, &format!(":{server} ACK")),
            [(tags, line)] => self.send_tagged(net, conn, &with(tags, &mark), line),
            // A batch of its own carries it.
            [(tags, first), rest @ ..] if first.contains(" BATCH +") || !batched => {
                self.send_tagged(net, conn, &with(tags, &mark), first);
                rest.iter().for_each(|(tags, line)| self.send_tagged(net, conn, tags, line));
            }
            all => {
                let batch = self.batch();
                self.send_tagged(net, conn, &mark, &format!(":{server} BATCH +{batch} labeled-response"));
                for (tags, line) in all {
                    self.send_tagged(net, conn, &with(tags, &format!("batch={batch}")), line);
                }
                self.send(net, conn, &format!(":{server} BATCH -{batch}"));
            }
        }
    }

    /// A name for lines that belong together.
    pub fn batch(&mut self) -> u64 {
        self.batches += 1;
        self.batches
    }
}
