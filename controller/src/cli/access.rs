//! `flotilla access …`.

use crate::cli::Session;
use crate::cli::args::access::{Access, Grant, Key, Principal, Role};
use crate::cli::failure::CliFailure;
use crate::cli::print::{Printer, Tone};
use crate::exit::Exit;
use crate::operation::view::access::{
    AddGrant, AddPrincipal, CreateKey, Explain, ExplanationView, GrantList, GrantView, KeyList,
    KeyMade, KeyView, Kind, PrincipalList, PrincipalView, RoleList, RoleView, RotateKey, SetRole,
    Whoami,
};

pub(super) async fn run(session: &mut Session, command: Access) -> Result<Exit, CliFailure> {
    match command {
        Access::Role(command) => role(session, command).await?,
        Access::Principal(command) => principal(session, command).await?,
        Access::Grant(command) => grant(session, command).await?,
        Access::Key(command) => key(session, command).await?,
        Access::Explain {
            principal,
            permission,
            node,
        } => return explain(session, principal, permission, node).await,
        Access::Whoami => {
            let whoami: Whoami = session.client.get("/access/whoami").await?;
            session.print.show(&whoami, |print, whoami| {
                let principal = &whoami.principal;
                let grants = grants_text(&principal.grants);
                print.line(format!(
                    "{} ({}), key {}",
                    principal.name, principal.kind, whoami.key.id
                ))?;
                print.line(format!("grants: {grants}"))
            })?;
        }
    }
    Ok(Exit::Ok)
}

async fn role(session: &mut Session, command: Role) -> Result<(), CliFailure> {
    match command {
        Role::List => {
            let list: RoleList = session.client.get("/access/roles").await?;
            session.print.show(&list, |print, list| {
                let mut table = print.table(&["ROLE", "INHERITS", "PERMISSIONS", "ABOUT"]);
                for role in &list.roles {
                    table.add_row(vec![
                        print.cell(&role.name, Tone::Plain),
                        print.cell(dash(&role.inherits.join(",")), Tone::Plain),
                        print.cell(role.permissions.join(" "), Tone::Plain),
                        print.cell(&role.description, Tone::Faint),
                    ]);
                }
                print.print(table, "No roles.")
            })
        }
        Role::Set {
            role,
            description,
            permissions,
            inherits,
        } => {
            let body = SetRole {
                description,
                permissions,
                inherits,
            };
            let path = format!("/access/roles/{role}");
            let role: RoleView = session.client.put(&path, &body).await?;
            session.print.show(&role, |print, role| {
                print.line(format!("Role {} is set.", role.name))
            })
        }
        Role::Remove { role } => {
            let role: RoleView = session
                .client
                .delete(&format!("/access/roles/{role}"))
                .await?;
            session.print.show(&role, |print, role| {
                print.line(format!("Role {} is gone.", role.name))
            })
        }
    }
}

async fn principal(session: &mut Session, command: Principal) -> Result<(), CliFailure> {
    match command {
        Principal::List => {
            let list: PrincipalList = session.client.get("/access/principals").await?;
            session.print.show(&list, principals)
        }
        Principal::Add {
            name,
            service,
            roles,
            key,
        } => add_principal(session, name, service, roles, key).await,
        Principal::Disable { principal } => {
            let path = format!("/access/principals/{principal}/disable");
            let principal: PrincipalView =
                session.client.post(&path, &serde_json::json!({})).await?;
            session.print.show(&principal, |print, principal| {
                print.line(format!("{} may do nothing any more.", principal.name))
            })
        }
        Principal::Enable { principal } => {
            let path = format!("/access/principals/{principal}/enable");
            let principal: PrincipalView =
                session.client.post(&path, &serde_json::json!({})).await?;
            session.print.show(&principal, |print, principal| {
                print.line(format!("{} has its permissions back.", principal.name))
            })
        }
    }
}

/// Three requests, each allowed or refused on its own: what was made before a
/// refusal stays, and is said.
async fn add_principal(
    session: &mut Session,
    name: String,
    service: bool,
    roles: Vec<String>,
    key: bool,
) -> Result<(), CliFailure> {
    let body = AddPrincipal {
        name,
        kind: if service { Kind::Service } else { Kind::Person },
    };
    let made: PrincipalView = session.client.post("/access/principals", &body).await?;
    for role in roles {
        let body = AddGrant {
            principal: made.id.to_string(),
            role,
            on: None,
        };
        let _: GrantView = session
            .client
            .post("/access/grants", &body)
            .await
            .map_err(|failure| already(failure, &made))?;
    }
    if !key {
        return session.print.show(&made, |print, made| {
            print.line(format!("{} ({}) is added.", made.name, made.id))
        });
    }
    let body = CreateKey {
        principal: made.id.to_string(),
        expires_s: None,
        scope: None,
        note: String::new(),
    };
    let key: KeyMade = session
        .client
        .post("/access/keys", &body)
        .await
        .map_err(|failure| already(failure, &made))?;
    show_key(session, &key)
}

fn already(mut failure: CliFailure, made: &PrincipalView) -> CliFailure {
    failure.message = format!("{} was added, but {}", made.name, failure.message);
    failure
}

async fn grant(session: &mut Session, command: Grant) -> Result<(), CliFailure> {
    match command {
        Grant::List => {
            let list: GrantList = session.client.get("/access/grants").await?;
            session.print.show(&list, |print, list| {
                let mut table = print.table(&["GRANT", "PRINCIPAL", "ROLE", "ON", "SINCE"]);
                for grant in &list.grants {
                    table.add_row(vec![
                        print.cell(grant.id, Tone::Faint),
                        print.cell(&grant.principal_name, Tone::Plain),
                        print.cell(&grant.role, Tone::Plain),
                        print.cell(grant.on.as_deref().unwrap_or("every node"), Tone::Plain),
                        print.cell(print.ago(grant.created_at), Tone::Plain),
                    ]);
                }
                print.print(table, "No grants.")
            })
        }
        Grant::Add {
            principal,
            role,
            on,
        } => {
            let body = AddGrant {
                principal,
                role,
                on,
            };
            let grant: GrantView = session.client.post("/access/grants", &body).await?;
            session.print.show(&grant, |print, grant| {
                let on = grant.on.as_deref().unwrap_or("every node");
                print.line(format!(
                    "{} is {} on {on} (grant {}).",
                    grant.principal_name, grant.role, grant.id
                ))
            })
        }
        Grant::Remove { grant } => {
            let grant: GrantView = session
                .client
                .delete(&format!("/access/grants/{grant}"))
                .await?;
            session.print.show(&grant, |print, grant| {
                print.line(format!(
                    "{} is no longer {} by grant {}.",
                    grant.principal_name, grant.role, grant.id
                ))
            })
        }
    }
}

async fn key(session: &mut Session, command: Key) -> Result<(), CliFailure> {
    match command {
        Key::List => {
            let list: KeyList = session.client.get("/access/keys").await?;
            session.print.show(&list, keys)
        }
        Key::Create {
            principal,
            expires,
            permissions,
            note,
        } => {
            let body = CreateKey {
                principal,
                expires_s: expires.map(|expires| expires.as_secs()),
                scope: (!permissions.is_empty()).then_some(permissions),
                note,
            };
            let made: KeyMade = session.client.post("/access/keys", &body).await?;
            show_key(session, &made)
        }
        Key::Rotate { key, overlap } => {
            let body = RotateKey {
                overlap_s: overlap.as_secs(),
            };
            let path = format!("/access/keys/{key}/rotate");
            let made: KeyMade = session.client.post(&path, &body).await?;
            show_key(session, &made)
        }
        Key::Revoke { key } => {
            let path = format!("/access/keys/{key}/revoke");
            let key: KeyView = session.client.post(&path, &serde_json::json!({})).await?;
            session.print.show(&key, |print, key| {
                print.line(format!(
                    "Key {} of {} is revoked.",
                    key.id, key.principal_name
                ))
            })
        }
    }
}

fn show_key(session: &mut Session, made: &KeyMade) -> Result<(), CliFailure> {
    session.print.show(made, |print, made| {
        print.line(&made.text)?;
        let until = match made.key.expires_at {
            Some(at) => format!("expires {}", print.ago(at)),
            None => "does not expire".to_owned(),
        };
        super::note(&format!(
            "API key of {}, shown once, {until}. Use it as FLOTILLA_KEY or in a profile.",
            made.key.principal_name
        ));
        Ok(())
    })
}

fn grants_text(grants: &[GrantView]) -> String {
    let texts: Vec<_> = grants
        .iter()
        .map(|grant| match &grant.on {
            Some(on) => format!("{} on {on}", grant.role),
            None => grant.role.clone(),
        })
        .collect();
    dash(&texts.join("; ")).to_owned()
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn principals(print: &mut Printer, list: &PrincipalList) -> Result<(), CliFailure> {
    let mut table = print.table(&["NAME", "ID", "KIND", "STATE", "KEYS", "GRANTS"]);
    for principal in &list.principals {
        let (state, tone) = match principal.disabled_at {
            Some(_) => ("disabled", Tone::Bad),
            None => ("enabled", Tone::Good),
        };
        table.add_row(vec![
            print.cell(&principal.name, Tone::Plain),
            print.cell(principal.id, Tone::Faint),
            print.cell(&principal.kind, Tone::Plain),
            print.cell(state, tone),
            print.cell(principal.live_keys, Tone::Plain),
            print.cell(grants_text(&principal.grants), Tone::Plain),
        ]);
    }
    print.print(table, "No principals.")
}

fn keys(print: &mut Printer, list: &KeyList) -> Result<(), CliFailure> {
    let mut table = print.table(&[
        "SERIAL",
        "PRINCIPAL",
        "STATE",
        "EXPIRES",
        "LAST USED",
        "SCOPE",
        "NOTE",
    ]);
    for key in &list.keys {
        let tone = if key.state == "live" {
            Tone::Good
        } else {
            Tone::Faint
        };
        let scope = key
            .scope
            .as_ref()
            .map_or_else(|| "all".to_owned(), |s| s.join(" "));
        table.add_row(vec![
            print.cell(key.id, Tone::Plain),
            print.cell(&key.principal_name, Tone::Plain),
            print.cell(&key.state, tone),
            print.cell(print.ago_or_dash(key.expires_at), Tone::Plain),
            print.cell(print.ago_or_dash(key.last_used_at), Tone::Plain),
            print.cell(scope, Tone::Plain),
            print.cell(&key.note, Tone::Faint),
        ]);
    }
    print.print(table, "No keys.")
}

async fn explain(
    session: &mut Session,
    principal: String,
    permission: String,
    node: Option<String>,
) -> Result<Exit, CliFailure> {
    let query = Explain {
        principal,
        permission,
        node,
    };
    let answer: ExplanationView = session.client.query("/access/explain", &query).await?;
    let exit = if answer.allowed {
        Exit::Ok
    } else {
        Exit::Denied
    };
    session.print.show(&answer, |print, answer| {
        let (word, tone) = if answer.allowed {
            ("allowed", Tone::Good)
        } else {
            ("denied", Tone::Bad)
        };
        let word = print.tint(word, tone);
        print.line(format!("{word}: {}", answer.reason))?;
        let mut table = print.table(&["GRANT", "ROLE", "BY WAY OF", "PERMISSION", "ON", "OUTCOME"]);
        for grant in &answer.grants {
            table.add_row(vec![
                print.cell(grant.grant, Tone::Faint),
                print.cell(&grant.role, Tone::Plain),
                print.cell(dash(&grant.path.join(" > ")), Tone::Plain),
                print.cell(grant.permission.as_deref().unwrap_or("-"), Tone::Plain),
                print.cell(grant.on.as_deref().unwrap_or("every node"), Tone::Plain),
                print.cell(grant.outcome.replace('_', " "), Tone::Plain),
            ]);
        }
        print.print(table, "There is no grant for this principal.")
    })?;
    Ok(exit)
}
