//! `flotilla token …`.

use std::collections::BTreeMap;

use crate::cli::Session;
use crate::cli::args::Token;
use crate::cli::failure::CliFailure;
use crate::cli::node::labels_text;
use crate::cli::print::{Printer, Tone};
use crate::exit::Exit;
use crate::operation::view::token::{CreateToken, TokenList, TokenMade, TokenView};

pub(super) async fn run(session: &mut Session, command: Token) -> Result<Exit, CliFailure> {
    match command {
        Token::Create {
            labels,
            expires,
            uses,
            approve,
            replaces,
        } => {
            let body = CreateToken {
                labels: pairs(labels)?,
                expires_s: expires.as_secs(),
                uses,
                approve,
                replaces,
            };
            let made: TokenMade = session.client.post("/tokens", &body).await?;
            session.print.show(&made, |print, made| {
                print.line(&made.text)?;
                let token = &made.token;
                super::note(&format!(
                    "Works {} time{}, expires {}. On the host: flotilla-agent join TOKEN",
                    token.uses,
                    if token.uses == 1 { "" } else { "s" },
                    print.ago(token.expires_at),
                ));
                Ok(())
            })?;
        }
        Token::List => {
            let list: TokenList = session.client.get("/tokens").await?;
            session.print.show(&list, table)?;
        }
        Token::Revoke { token } => {
            let path = format!("/tokens/{token}/revoke");
            let token: TokenView = session.client.post(&path, &serde_json::json!({})).await?;
            session.print.show(&token, |print, token| {
                print.line(format!("Token {} is revoked.", token.id))
            })?;
        }
    }
    Ok(Exit::Ok)
}

/// `KEY=VALUE` texts as a map.
pub(super) fn pairs(texts: Vec<String>) -> Result<BTreeMap<String, String>, CliFailure> {
    texts
        .into_iter()
        .map(|text| match text.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(CliFailure::new(
                Exit::Usage,
                format!("label {text:?} is not KEY=VALUE"),
            )),
        })
        .collect()
}

fn table(print: &mut Printer, list: &TokenList) -> Result<(), CliFailure> {
    let mut table = print.table(&["SERIAL", "STATE", "USED", "EXPIRES", "APPROVAL", "LABELS"]);
    for token in &list.tokens {
        let tone = if token.state == "live" {
            Tone::Good
        } else {
            Tone::Faint
        };
        table.add_row(vec![
            print.cell(token.id, Tone::Plain),
            print.cell(&token.state, tone),
            print.cell(format!("{}/{}", token.used, token.uses), Tone::Plain),
            print.cell(print.ago(token.expires_at), Tone::Plain),
            print.cell(if token.approve { "needed" } else { "-" }, Tone::Plain),
            print.cell(labels_text(&token.labels), Tone::Plain),
        ]);
    }
    print.print(table, "No tokens. Make one: flotilla token create")
}
