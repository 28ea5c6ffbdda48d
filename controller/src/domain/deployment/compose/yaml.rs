//! YAML as a tree that knows its places.
//!
//! Owns the YAML parser. **Invariant:** time and memory are linear in the text,
//! whatever it says: nesting has a bound, an alias shares what it refers to, and
//! what the tree would be with every alias written out has a bound too, which is
//! charged when an alias is met. So whoever walks the tree needs no guard.
//!
//! Fails with one problem, the first. Duplicate keys, more than one document,
//! tags other than `!!str` and its like, and aliases to what is not complete are
//! refused.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, Tag};

use super::problem::{Place, Problems, cut, shown};

/// Bytes of a Compose file. The largest in practice have a twentieth.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// Levels of nesting, aliases written out. Compose needs eight.
const DEPTH_MAX: usize = 40;

/// Characters of what the parser says; it quotes the file.
const REASON_CHARS_MAX: usize = 200;

/// What a node costs besides its text.
const NODE_COST: usize = 64;

/// What the tree may cost with every alias and merge written out.
const COST_MAX: usize = 16 * 1024 * 1024;

/// A node of the tree.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) value: Value,
    /// With everything below it, aliases written out.
    cost: usize,
    /// Levels below it.
    depth: usize,
}

/// What a node holds. Shared, so that an alias costs nothing.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Scalar(Rc<str>),
    List(Rc<[Node]>),
    Map(Rc<[(Key, Node)]>),
}

/// A key of a map.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) text: Rc<str>,
    pub(super) at: Place,
}

impl Value {
    /// What it is, for a message.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Scalar(_) => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

/// Reads the one document of a text.
pub(super) fn parse(text: &str) -> Result<Node, Problems> {
    if text.len() > TEXT_BYTES_MAX {
        let text = format!(
            "the file has {} bytes; at most {TEXT_BYTES_MAX}",
            text.len()
        );
        return Err(Problems::one(Place::START, text));
    }
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options()) {
        let (event, span) = event.map_err(|error| {
            let place = place(error.marker().line(), error.marker().col());
            Problems::one(
                place,
                format!("is no YAML: {}", cut(&error.info(), REASON_CHARS_MAX)),
            )
        })?;
        builder.take(event, &span)?;
    }
    builder
        .root
        .ok_or_else(|| Problems::one(Place::START, "the file is empty"))
}

fn options() -> Options {
    granit_parser::options! {
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
        disallow_directives: true,
        emit_comments: false,
    }
}

/// The parser counts lines from 1 and columns from 0.
fn place(line: usize, column: usize) -> Place {
    Place {
        line: line.max(1),
        column: column + 1,
    }
}

/// A collection that is not complete.
struct Open {
    at: Place,
    anchor: usize,
    inside: Inside,
    cost: usize,
    depth: usize,
}

enum Inside {
    List(Vec<Node>),
    Map {
        entries: Vec<(Key, Node)>,
        keys: BTreeSet<Rc<str>>,
        /// A key whose value comes next.
        key: Option<MapKey>,
        /// What `<<` brings, in order.
        merges: Vec<Node>,
    },
}

enum MapKey {
    Named(Key),
    Merge,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    root: Option<Node>,
    spent: usize,
}

impl Builder {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the parser may learn further events, none of which is ignored"
    )]
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), Problems> {
        let at = place(span.start.line(), span.start.col());
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(Problems::one(at, "begins a second document; give one"))
            }
            Event::DocumentStart(..) => Ok(()),
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(&text, style, anchor, tag.as_deref(), at)
            }
            Event::SequenceStart(_, anchor, tag) => {
                refuse_tag(tag.as_deref(), "seq", at)?;
                self.begin(Inside::List(Vec::new()), anchor, at)
            }
            Event::MappingStart(_, anchor, tag) => {
                refuse_tag(tag.as_deref(), "map", at)?;
                let map = Inside::Map {
                    entries: Vec::new(),
                    keys: BTreeSet::new(),
                    key: None,
                    merges: Vec::new(),
                };
                self.begin(map, anchor, at)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => {
                let node =
                    self.anchors.get(&anchor).cloned().ok_or_else(|| {
                        Problems::one(at, "is an alias inside of what it refers to")
                    })?;
                self.charge(node.cost, at)?;
                self.put(node, at)
            }
            _ => Err(Problems::one(at, "is YAML that is not supported")),
        }
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        at: Place,
    ) -> Result<(), Problems> {
        let plain = style == ScalarStyle::Plain && tag.is_none();
        if let Some(tag) = tag
            && !["str", "int", "float", "bool"]
                .iter()
                .any(|known| tag.is_yaml_core_schema_tag(known))
        {
            return Err(foreign_tag(tag, at));
        }
        // Only a key can be a merge, and only where it is written plainly.
        let merge = plain && text == "<<";
        if merge
            && let Some(Inside::Map {
                key: key @ None, ..
            }) = self.inside()
        {
            *key = Some(MapKey::Merge);
            return Ok(());
        }
        let cost = NODE_COST + text.len();
        self.charge(cost, at)?;
        let value = if plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
            Value::Null
        } else {
            Value::Scalar(Rc::from(text))
        };
        let node = Node {
            at,
            value,
            cost,
            depth: 0,
        };
        self.complete(node, anchor, at)
    }

    fn begin(&mut self, inside: Inside, anchor: usize, at: Place) -> Result<(), Problems> {
        if let Some(Inside::Map { key: None, .. }) = self.inside() {
            return Err(Problems::one(at, "is a key that is not a single value"));
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(too_deep(at));
        }
        self.charge(NODE_COST, at)?;
        self.open.push(Open {
            at,
            anchor,
            inside,
            cost: NODE_COST,
            depth: 1,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Problems> {
        let Some(open) = self.open.pop() else {
            return Err(Problems::one(Place::START, "ends what did not begin"));
        };
        let (mut cost, mut depth) = (open.cost, open.depth);
        let value = match open.inside {
            Inside::List(items) => Value::List(items.into()),
            Inside::Map {
                mut entries,
                mut keys,
                merges,
                ..
            } => {
                for merged in &merges {
                    for (key, node) in maps_of(merged)? {
                        if keys.insert(Rc::clone(&key.text)) {
                            self.charge(node.cost, merged.at)?;
                            cost += node.cost;
                            depth = depth.max(node.depth + 1);
                            entries.push((key.clone(), node.clone()));
                        }
                    }
                }
                Value::Map(entries.into())
            }
        };
        let node = Node {
            at: open.at,
            value,
            cost,
            depth,
        };
        self.complete(node, open.anchor, open.at)
    }

    /// Takes a node that is written here, not by an alias.
    fn complete(&mut self, node: Node, anchor: usize, at: Place) -> Result<(), Problems> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.put(node, at)
    }

    /// Puts a complete node where the text has it.
    fn put(&mut self, node: Node, at: Place) -> Result<(), Problems> {
        if self.open.len() + node.depth > DEPTH_MAX {
            return Err(too_deep(at));
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        let (cost, depth) = (node.cost, node.depth + 1);
        match &mut open.inside {
            Inside::List(items) => items.push(node),
            Inside::Map {
                entries,
                keys,
                key,
                merges,
            } => match key.take() {
                Some(MapKey::Merge) => {
                    // What it brings is counted when it is merged.
                    merges.push(node);
                    return Ok(());
                }
                Some(MapKey::Named(key)) => entries.push((key, node)),
                None => {
                    let text = match node.value {
                        Value::Scalar(text) => text,
                        Value::Null | Value::List(_) | Value::Map(_) => {
                            return Err(Problems::one(at, "is a key that is not a single value"));
                        }
                    };
                    if !keys.insert(Rc::clone(&text)) {
                        let text = format!("the key {} is there twice", shown(&text));
                        return Err(Problems::one(at, text));
                    }
                    *key = Some(MapKey::Named(Key { text, at }));
                }
            },
        }
        open.cost += cost;
        open.depth = open.depth.max(depth);
        Ok(())
    }

    fn inside(&mut self) -> Option<&mut Inside> {
        self.open.last_mut().map(|open| &mut open.inside)
    }

    fn charge(&mut self, cost: usize, at: Place) -> Result<(), Problems> {
        self.spent = self.spent.saturating_add(cost);
        if self.spent > COST_MAX {
            return Err(Problems::one(
                at,
                "is where the file becomes too large with its aliases written out",
            ));
        }
        Ok(())
    }
}

/// The entries that a merge brings: those of a map, or of each map of a list, the
/// first of which wins.
fn maps_of(merged: &Node) -> Result<Vec<(Key, Node)>, Problems> {
    let entries = |node: &Node| match &node.value {
        Value::Map(entries) => Ok(entries.to_vec()),
        Value::Null | Value::Scalar(_) | Value::List(_) => Err(Problems::one(
            node.at,
            format!("is {} where `<<` merges a map", node.value.what()),
        )),
    };
    match &merged.value {
        Value::List(items) => {
            let mut all = Vec::new();
            for item in items.iter() {
                all.extend(entries(item)?);
            }
            Ok(all)
        }
        Value::Map(_) | Value::Null | Value::Scalar(_) => entries(merged),
    }
}

fn refuse_tag(tag: Option<&Tag>, natural: &str, at: Place) -> Result<(), Problems> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema_tag(natural) => Err(foreign_tag(tag, at)),
        Some(_) | None => Ok(()),
    }
}

fn foreign_tag(tag: &Tag, at: Place) -> Problems {
    let text = format!(
        "has the tag {}, which is not supported",
        shown(&tag.original())
    );
    let mut problems = Problems::one(at, text);
    for problem in &mut problems.found {
        problem.kind = super::problem::ProblemKind::Unsupported;
    }
    problems
}

fn too_deep(at: Place) -> Problems {
    Problems::one(at, format!("is nested deeper than {DEPTH_MAX} levels"))
}
