//! Inputs of stacks: variables whose values are outputs of other stacks, as the last job told that applied or looked at them. And which stack
//! stands on which, in the order in which they are made.
//!
//! A sensitive output has no value here, and is an input of nothing.

use super::source::{Variables, is_identifier};
use super::stacks::read_back;
use super::{ApiError, ApiState, Caller, Params, Routes};
use crate::store::Stack;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared_proto::failure::{Code, Failure};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use utoipa::{OpenApi, ToSchema};

/// Inputs of one stack.
const INPUTS_MAX: usize = 64;
/// The longest name of an output, bytes.
const OUTPUT_MAX: usize = 128;

#[derive(OpenApi)]
#[openapi(paths(graph))]
pub(super) struct Document;

pub(super) fn routes() -> Routes {
    Routes::new().add("get", "/stack-graph", graph)
}

/// An output of another stack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// The stack, by id or name; it is kept by its id.
    stack: String,
    /// The output's name.
    output: String,
}

pub(super) type Inputs = BTreeMap<String, Input>;

/// A stack in the graph.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct Node {
    /// Its name.
    stack: String,
    /// Those whose outputs it takes, by name.
    stands_on: Vec<String>,
    /// Those that take some of its own.
    carries: Vec<String>,
}
/// Each stack after all that it stands on.
#[derive(Serialize, ToSchema)]
struct Graph {
    items: Vec<Node>,
}

#[utoipa::path(get, path = "/api/v1/stack-graph", tag = "stacks", responses((status = 200, body = Graph,
    description = "Each stack after all that it stands on; those that stand on nothing and carry nothing are left out")))]
async fn graph(State(state): State<ApiState>, caller: Caller, params: Params) -> Result<Json<Graph>, ApiError> {
    params.finish()?;
    Ok(Json(Graph { items: ordered(&all(&state, &caller).await?) }))
}

/// Every stack with those whose outputs it takes, by id.
pub(super) struct Edges {
    names: BTreeMap<String, String>,
    stands_on: HashMap<String, BTreeSet<String>>,
}

impl Edges {
    /// Those whose outputs that one takes.
    pub(super) fn under(&self, stack: &str) -> impl Iterator<Item = &String> {
        self.stands_on.get(stack).into_iter().flatten()
    }
    /// Of these those that are still there.
    fn known_under(&self, stack: &str) -> impl Iterator<Item = &String> {
        self.under(stack).filter(|under| self.names.contains_key(*under))
    }
}

pub(super) async fn all(state: &ApiState, caller: &Caller) -> Result<Edges, Failure> {
    let stacks = state.store.stacks(caller.org(), super::stacks::STACKS_MAX as u32).await?;
    let mut edges = Edges { names: BTreeMap::new(), stands_on: HashMap::new() };
    for stack in &stacks {
        let of = inputs_of(stack)?.into_values().map(|input| input.stack).collect();
        edges.names.insert(stack.id.clone(), stack.name.clone());
        edges.stands_on.insert(stack.id.clone(), of);
    }
    Ok(edges)
}

/// The inputs of a stack, as it is kept.
pub(super) fn inputs_of(stack: &Stack) -> Result<Inputs, Failure> {
    read_back(&stack.inputs, stack)
}

fn ordered(edges: &Edges) -> Vec<Node> {
    let mut carries: HashMap<&str, Vec<&str>> = HashMap::new();
    for (id, name) in &edges.names {
        for under in edges.under(id) {
            carries.entry(under).or_default().push(name);
        }
    }
    let mut left: BTreeMap<&String, &String> = edges.names.iter().map(|(id, name)| (name, id)).collect();
    let (mut done, mut items) = (BTreeSet::new(), Vec::new());
    while !left.is_empty() {
        let next = left.iter().find(|(_, id)| edges.known_under(id).all(|under| done.contains(under)));
        // there are no circles; if there were one, its stacks would be told in any order
        let Some((name, id)) = next.or_else(|| left.iter().next()).map(|(name, id)| (*name, *id)) else { break };
        left.remove(name);
        done.insert(id);
        let mut stands_on: Vec<_> = edges.known_under(id).filter_map(|under| edges.names.get(under).cloned()).collect();
        let mut carries: Vec<_> =
            carries.remove(id.as_str()).unwrap_or_default().into_iter().map(str::to_owned).collect();
        stands_on.sort();
        carries.sort();
        if !stands_on.is_empty() || !carries.is_empty() {
            items.push(Node { stack: name.clone(), stands_on, carries });
        }
    }
    items
}

/// Checks inputs as a user says them, of a new stack or of that one, and gives them as they are kept.
///
/// # Errors
/// `invalid_argument`; `not_found` where there is no such stack; `conflict` where the stack would stand on itself.
pub(super) async fn checked(
    state: &ApiState,
    caller: &Caller,
    own: Option<&Stack>,
    given: Inputs,
) -> Result<Inputs, Failure> {
    if given.len() > INPUTS_MAX {
        return Err(Code::TooLarge.on(format!("there are {} inputs, the limit is {INPUTS_MAX}", given.len())));
    }
    let mut kept = Inputs::new();
    for (name, input) in given {
        if !is_identifier(&name) || input.output.is_empty() || input.output.len() > OUTPUT_MAX {
            let name: String = name.chars().take(100).collect();
            return Err(
                Code::InvalidArgument.on(format!("{name:?} is no name of a variable, or its input names no output"))
            );
        }
        let of = state.store.stack(caller.org(), &input.stack).await?;
        kept.insert(name, Input { stack: of.id, output: input.output });
    }
    if let Some(own) = own.filter(|_| !kept.is_empty()) {
        let edges = all(state, caller).await?;
        if let Some(way) = way_back(&edges, &own.id, kept.values().map(|input| input.stack.clone())) {
            let way =
                way.iter().filter_map(|id| edges.names.get(id).map(String::as_str)).collect::<Vec<_>>().join(" → ");
            let message = format!("the stack {} would stand on itself: {way}", own.name);
            return Err(Code::Conflict.on(message).next("Take one of these inputs away first."));
        }
    }
    Ok(kept)
}

/// The way by which one of these stands on that one.
fn way_back(edges: &Edges, own: &str, from: impl Iterator<Item = String>) -> Option<Vec<String>> {
    let mut ways: VecDeque<Vec<String>> = from.map(|id| vec![own.to_owned(), id]).collect();
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        let last = way.last()?;
        if last == own {
            return Some(way);
        }
        if !seen.insert(last.clone()) {
            continue;
        }
        for under in edges.under(last) {
            ways.push_back([way.as_slice(), std::slice::from_ref(under)].concat());
        }
    }
    None
}

/// As the API shows them: with names.
pub(super) async fn shown(state: &ApiState, caller: &Caller, stack: &Stack) -> Result<Inputs, Failure> {
    let mut inputs = inputs_of(stack)?;
    for input in inputs.values_mut() {
        // one that was deleted by force has none
        if let Ok(of) = state.store.stack(caller.org(), &input.stack).await {
            input.stack = of.name;
        }
    }
    Ok(inputs)
}

/// The values of a stack's inputs, of those that are wanted.
///
/// # Errors
/// `input_missing`: there is no such value, with what to do about it.
pub(super) async fn values(
    state: &ApiState,
    caller: &Caller,
    stack: &Stack,
    wanted: impl Fn(&str) -> bool,
) -> Result<Variables, Failure> {
    let mut outputs: HashMap<String, (String, Value)> = HashMap::new();
    let mut values = BTreeMap::new();
    for (variable, input) in inputs_of(stack)?.into_iter().filter(|(name, _)| wanted(name)) {
        if !outputs.contains_key(&input.stack) {
            let of = state.store.stack(caller.org(), &input.stack).await.map_err(|failure| {
                let message = format!("the input {variable} is of a stack that is gone: {}", failure.message);
                Code::InputMissing.on(message).next("Change the stack's inputs.")
            })?;
            let told = state.store.last_outputs(&of.id).await?;
            let told = told.and_then(|told| serde_json::from_str(&told).ok()).unwrap_or(Value::Null);
            outputs.insert(input.stack.clone(), (of.name, told));
        }
        let (name, told) = &outputs[&input.stack];
        values.insert(variable.clone(), value(&variable, name, &input.output, told)?);
    }
    Ok(Variables::of(values))
}

fn value(variable: &str, stack: &str, output: &str, told: &Value) -> Result<Value, Failure> {
    let missing =
        |what: String, next: String| Err(Code::InputMissing.on(format!("the input {variable}: {what}")).next(next));
    let Some(found) = told.get(output) else {
        return missing(
            format!("the stack {stack} has told of no output {output}"),
            format!("Deploy it first: `runnerctl deploy --stack {stack}`. Or give the variable: `--var {variable}=…`."),
        );
    };
    if found["sensitive"] == true {
        return missing(
            format!(
                "the output {output} of the stack {stack} is sensitive, and its value is nowhere but on its runner"
            ),
            "Put it into a store of secrets and refer to that with --secret.".into(),
        );
    }
    match found.get("value") {
        Some(value) => Ok(value.clone()),
        None => missing(
            format!("the output {output} of the stack {stack} is too large to be told"),
            "Have it told in parts, or in a store that both can read.".into(),
        ),
    }
}

/// Refuses where others take outputs of that stack.
///
/// # Errors
/// `conflict`, with their names.
pub(super) async fn carries_nothing(state: &ApiState, caller: &Caller, stack: &Stack) -> Result<(), Failure> {
    let edges = all(state, caller).await?;
    let on_it = |id: &str| edges.under(id).any(|under| *under == stack.id);
    let names: Vec<_> = edges.names.iter().filter(|(id, _)| on_it(id)).map(|(_, name)| name.as_str()).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Code::Conflict
        .on(format!("outputs of the stack {} are inputs of {}", stack.name, names.join(", ")))
        .next("Take them out of these first: `runnerctl stack update STACK --input none`. Or use --force."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn edges(all: &[(&str, &[&str])]) -> Edges {
        Edges {
            names: all.iter().map(|(id, _)| ((*id).to_owned(), format!("stack-{id}"))).collect(),
            stands_on: all
                .iter()
                .map(|(id, under)| ((*id).to_owned(), under.iter().map(|id| (*id).to_owned()).collect()))
                .collect(),
        }
    }

    #[test]
    fn each_stack_comes_after_what_it_stands_on() {
        let all = edges(&[("a", &["c", "b"]), ("b", &["c"]), ("c", &[]), ("d", &[]), ("e", &["gone"])]);
        let items = ordered(&all);
        let names: Vec<_> = items.iter().map(|node| node.stack.as_str()).collect();
        assert_eq!(names, ["stack-c", "stack-b", "stack-a"]);
        assert_eq!(items[0].carries, ["stack-a", "stack-b"]);
        assert_eq!((items[2].stands_on.len(), items[2].carries.len()), (2, 0));
        // what must not be is told all the same
        assert_eq!(ordered(&edges(&[("a", &["b"]), ("b", &["a"])])).len(), 2);
    }

    #[test]
    fn a_way_back_is_found_where_there_is_one() {
        let all = edges(&[("a", &[]), ("b", &["a"]), ("c", &["b"]), ("d", &["d2"]), ("d2", &["d"])]);
        let way = |own: &str, from: &[&str]| way_back(&all, own, from.iter().map(|id| (*id).to_owned()));
        assert_eq!(way("a", &["c"]).expect("there is one"), ["a", "c", "b", "a"]);
        assert_eq!(way("a", &["a"]).expect("itself"), ["a", "a"]);
        assert_eq!(way("c", &["a", "b"]), None);
        // a circle of others is no way back, and ends
        assert_eq!(way("a", &["d"]), None);
    }

    #[test]
    fn values_are_what_was_told_and_nothing_else() {
        let told = json!({
            "id": {"sensitive": false, "type": "string", "value": "vpc-1"},
            "none": {"sensitive": false, "type": "string", "value": null},
            "key": {"sensitive": true, "type": "string", "value": null},
            "large": {"sensitive": false, "type": "string", "left_out_bytes": 100_000},
        });
        assert_eq!(value("v", "net", "id", &told), Ok(json!("vpc-1")));
        assert_eq!(value("v", "net", "none", &told), Ok(Value::Null));
        for (output, says) in [("key", "is sensitive"), ("large", "too large"), ("other", "told of no output other")] {
            let failure = value("v", "net", output, &told).expect_err(output);
            assert!(failure.code == Code::InputMissing && failure.message.contains(says), "{failure}");
            assert!(!failure.next_step.is_empty());
        }
        assert!(value("v", "net", "id", &Value::Null).is_err());
    }
}
