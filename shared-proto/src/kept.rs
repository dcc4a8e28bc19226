//! That the protocol still reads, and is read by, what earlier versions speak: each of them is kept in `kept/`, by its commit, as
//! the descriptors that the build made of it. A released version is added by copying its `OUT_DIR/protocol.binpb` there, and never changed.

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::Path;

/// One version's names, in full.
#[derive(Default)]
struct Protocol<'a> {
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
    services: BTreeMap<String, &'a ServiceDescriptorProto>,
}

/// What must not be used again.
struct Reserved {
    numbers: Vec<RangeInclusive<i32>>,
    names: BTreeSet<String>,
}

// === impl Protocol ===

impl<'a> Protocol<'a> {
    fn of(set: &'a FileDescriptorSet) -> Self {
        let mut all = Self::default();
        for file in &set.file {
            let package = format!(".{}", file.package());
            for message in &file.message_type {
                all.message(&package, message);
            }
            for of_file in &file.enum_type {
                all.enums.insert(format!("{package}.{}", of_file.name()), of_file);
            }
            for service in &file.service {
                all.services.insert(format!("{package}.{}", service.name()), service);
            }
        }
        all
    }

    fn message(&mut self, outer: &str, message: &'a DescriptorProto) {
        let name = format!("{outer}.{}", message.name());
        for nested in &message.nested_type {
            self.message(&name, nested);
        }
        for of_message in &message.enum_type {
            self.enums.insert(format!("{name}.{}", of_message.name()), of_message);
        }
        self.messages.insert(name, message);
    }
}

// === impl Reserved ===

impl Reserved {
    fn of_message(message: &DescriptorProto) -> Self {
        // the end of a message's range is the first number after it, that of an enum's its last
        let numbers = message.reserved_range.iter().map(|r| r.start()..=r.end() - 1).collect();
        Self { numbers, names: message.reserved_name.iter().cloned().collect() }
    }
    fn of_enum(values: &EnumDescriptorProto) -> Self {
        let numbers = values.reserved_range.iter().map(|r| r.start()..=r.end()).collect();
        Self { numbers, names: values.reserved_name.iter().cloned().collect() }
    }
    fn has(&self, number: i32, name: &str) -> bool {
        self.names.contains(name) && self.numbers.iter().any(|range| range.contains(&number))
    }
    /// Whether all of that is among it, each range whole in one of its own.
    fn has_all(&self, other: &Self) -> bool {
        let within = |range: &RangeInclusive<i32>| {
            self.numbers.iter().any(|own| own.contains(range.start()) && own.contains(range.end()))
        };
        other.numbers.iter().all(within) && other.names.is_subset(&self.names)
    }
}

/// What of a field is on the wire, in the JSON of the API, or in who reads it.
fn shape(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let one_of = match field.oneof_index {
        Some(index) if !field.proto3_optional() => {
            usize::try_from(index).ok().and_then(|i| message.oneof_decl.get(i)).map(|o| o.name().to_owned())
        }
        _ => None,
    };
    format!(
        "{} {:?} {:?}{} optional={} packed={:?} oneof={}",
        field.name(),
        field.label(),
        field.r#type(),
        field.type_name(),
        field.proto3_optional(),
        field.options.as_ref().and_then(|options| options.packed),
        one_of.unwrap_or_default()
    )
}

/// What `new` does that `old` would misunderstand, or the other way round.
fn breaks(old: &FileDescriptorSet, new: &FileDescriptorSet) -> Vec<String> {
    let (old, new) = (Protocol::of(old), Protocol::of(new));
    let mut wrong = Vec::new();
    for (name, before) in &old.messages {
        match new.messages.get(name) {
            Some(after) => message(name, before, after, &mut wrong),
            // a part of others goes with the fields that had it, which are looked at there
            None if has(&old, name) && !has(&new, name) => {}
            None => wrong.push(format!("{name} is gone")),
        }
    }
    for (name, before) in &old.enums {
        match new.enums.get(name) {
            Some(after) => values(name, before, after, &mut wrong),
            None => wrong.push(format!("{name} is gone")),
        }
    }
    for (name, before) in &old.services {
        match new.services.get(name) {
            Some(after) => service(name, before, after, &mut wrong),
            None => wrong.push(format!("{name} is gone")),
        }
    }
    wrong
}

/// Whether a message is a part of another.
fn has(protocol: &Protocol<'_>, name: &str) -> bool {
    protocol.messages.values().any(|message| message.field.iter().any(|field| field.type_name() == name))
}

fn message(name: &str, before: &DescriptorProto, after: &DescriptorProto, wrong: &mut Vec<String>) {
    let (was_reserved, reserved) = (Reserved::of_message(before), Reserved::of_message(after));
    for field in &before.field {
        match after.field.iter().find(|f| f.number() == field.number()) {
            Some(now) if shape(after, now) == shape(before, field) => {}
            Some(now) => {
                wrong.push(format!("{name} {}: {} is {}", field.number(), shape(before, field), shape(after, now)));
            }
            None if reserved.has(field.number(), field.name()) => {}
            None => wrong.push(format!("{name} {} ({}) is gone and not reserved", field.number(), field.name())),
        }
    }
    for field in &after.field {
        let number = was_reserved.numbers.iter().any(|range| range.contains(&field.number()));
        if number || was_reserved.names.contains(field.name()) {
            wrong.push(format!("{name} {} ({}) was reserved", field.number(), field.name()));
        }
    }
    if !reserved.has_all(&was_reserved) {
        wrong.push(format!("{name}: something is not reserved any more"));
    }
}

fn values(name: &str, before: &EnumDescriptorProto, after: &EnumDescriptorProto, wrong: &mut Vec<String>) {
    let (was_reserved, reserved) = (Reserved::of_enum(before), Reserved::of_enum(after));
    for value in &before.value {
        match after.value.iter().find(|v| v.number() == value.number()) {
            Some(now) if now.name() == value.name() => {}
            Some(now) => wrong.push(format!("{name} {}: {} is {}", value.number(), value.name(), now.name())),
            None if reserved.has(value.number(), value.name()) => {}
            None => wrong.push(format!("{name} {} ({}) is gone and not reserved", value.number(), value.name())),
        }
    }
    for value in &after.value {
        let number = was_reserved.numbers.iter().any(|range| range.contains(&value.number()));
        if number || was_reserved.names.contains(value.name()) {
            wrong.push(format!("{name} {} ({}) was reserved", value.number(), value.name()));
        }
    }
    if !reserved.has_all(&was_reserved) {
        wrong.push(format!("{name}: something is not reserved any more"));
    }
}

fn service(name: &str, before: &ServiceDescriptorProto, after: &ServiceDescriptorProto, wrong: &mut Vec<String>) {
    for method in &before.method {
        let Some(now) = after.method.iter().find(|m| m.name() == method.name()) else {
            wrong.push(format!("{name}.{} is gone", method.name()));
            continue;
        };
        if (now.input_type(), now.output_type()) != (method.input_type(), method.output_type()) {
            wrong.push(format!("{name}.{} has other messages", method.name()));
        }
        if (now.client_streaming(), now.server_streaming()) != (method.client_streaming(), method.server_streaming()) {
            wrong.push(format!("{name}.{} streams otherwise", method.name()));
        }
    }
}

/// As this build has it.
fn todays() -> FileDescriptorSet {
    let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/protocol.binpb"));
    FileDescriptorSet::decode(bytes.as_slice()).expect("the build's own")
}

/// Earlier ones, by commit.
fn kept() -> BTreeMap<String, FileDescriptorSet> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kept");
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("reads").flatten() {
        let path = entry.path();
        let Some(commit) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".binpb")) else {
            continue;
        };
        let bytes = std::fs::read(&path).expect("reads");
        all.insert(commit.to_owned(), FileDescriptorSet::decode(bytes.as_slice()).expect(commit));
    }
    all
}

#[test]
fn todays_protocol_reads_and_is_read_by_each_kept_one() {
    let (kept, todays) = (kept(), todays());
    assert!(kept.len() >= 2, "{:?}", kept.keys());
    for (commit, old) in kept {
        let protocol = Protocol::of(&old);
        assert!(protocol.messages.len() > 60 && protocol.services.len() == 3, "{commit}: not the whole of it");
        assert_eq!(breaks(&old, &todays), Vec::<String>::new(), "since {commit}");
    }
}

/// A message of today's, to be changed.
fn message_of<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut DescriptorProto {
    set.file.iter_mut().flat_map(|f| &mut f.message_type).find(|m| m.name() == name).expect(name)
}
fn field_of<'a>(set: &'a mut FileDescriptorSet, message: &str, field: &str) -> &'a mut FieldDescriptorProto {
    message_of(set, message).field.iter_mut().find(|f| f.name() == field).expect(field)
}
fn kinds_of_jobs(set: &mut FileDescriptorSet) -> &mut EnumDescriptorProto {
    set.file.iter_mut().flat_map(|f| &mut f.enum_type).find(|e| e.name() == "JobKind").expect("JobKind")
}
fn execution(set: &mut FileDescriptorSet) -> &mut ServiceDescriptorProto {
    set.file.iter_mut().flat_map(|f| &mut f.service).find(|s| s.name() == "Execution").expect("Execution")
}
fn reserve(set: &mut FileDescriptorSet, message: &str, number: i32, name: &str) {
    let message = message_of(set, message);
    let range = prost_types::descriptor_proto::ReservedRange { start: Some(number), end: Some(number + 1) };
    message.reserved_range.push(range);
    message.reserved_name.push(name.to_owned());
}
fn remove(set: &mut FileDescriptorSet, message: &str, field: &str) {
    message_of(set, message).field.retain(|f| f.name() != field);
}

#[test]
fn each_kind_of_break_is_found_and_what_is_only_new_is_none() {
    use prost_types::field_descriptor_proto::{Label, Type};
    type Change = fn(&mut FileDescriptorSet);
    let breaking: &[(&str, Change, &str)] = &[
        ("another type", |s| field_of(s, "HeldJob", "phase").set_type(Type::Bytes), "HeldJob 3"),
        ("another message", |s| field_of(s, "Event", "result").type_name = Some(".runner.v1.Ping".into()), "Event 21"),
        ("another label", |s| field_of(s, "WorkRequest", "held").set_label(Label::Optional), "WorkRequest"),
        ("another name", |s| field_of(s, "Ping", "nonce").name = Some("number".into()), "Ping 1"),
        ("another number", |s| field_of(s, "Ping", "nonce").number = Some(7), "Ping 1 (nonce) is gone"),
        ("out of its oneof", |s| field_of(s, "Event", "result").oneof_index = None, "Event 21"),
        ("without presence", |s| field_of(s, "JobResult", "engine_exit_code").proto3_optional = None, "JobResult 5"),
        ("a removed field", |s| remove(s, "Hello", "hostname"), "Hello 13 (hostname) is gone and not reserved"),
        (
            "a number without its name reserved",
            |s| {
                remove(s, "Hello", "hostname");
                reserve(s, "Hello", 13, "another");
            },
            "Hello 13 (hostname) is gone and not reserved",
        ),
        (
            "a removed message",
            |s| s.file.iter_mut().for_each(|f| f.message_type.retain(|m| m.name() != "Pong")),
            "Pong is gone",
        ),
        (
            "a value's number used again",
            |s| kinds_of_jobs(s).value[1].name = Some("JOB_KIND_OTHER".into()),
            "JobKind 1",
        ),
        ("a removed value", |s| kinds_of_jobs(s).value.retain(|v| v.number() != 5), "JobKind 5"),
        (
            "a removed enum",
            |s| s.file.iter_mut().for_each(|f| f.enum_type.retain(|e| e.name() != "JobKind")),
            "JobKind is gone",
        ),
        ("a removed call", |s| execution(s).method.retain(|m| m.name() != "Accept"), "Execution.Accept is gone"),
        (
            "another request",
            |s| execution(s).method[0].input_type = Some(".runner.v1.Ping".into()),
            "has other messages",
        ),
        (
            "another reply",
            |s| execution(s).method[0].output_type = Some(".runner.v1.Ping".into()),
            "has other messages",
        ),
        ("a call that streams", |s| execution(s).method[1].client_streaming = Some(true), "streams otherwise"),
        ("a call that does not", |s| execution(s).method[0].server_streaming = None, "streams otherwise"),
        (
            "a removed service",
            |s| s.file.iter_mut().for_each(|f| f.service.retain(|v| v.name() != "Execution")),
            "Execution is gone",
        ),
    ];
    let today = todays();
    for (what, change, said) in breaking {
        let mut changed = today.clone();
        change(&mut changed);
        let wrong = breaks(&today, &changed);
        assert!(wrong.iter().any(|w| w.contains(said)), "{what}: {wrong:?}");
    }
    let harmless: &[(&str, Change)] = &[
        ("nothing", |_| {}),
        ("a new field", |s| {
            let field = FieldDescriptorProto { name: Some("new".into()), number: Some(900), ..Default::default() };
            message_of(s, "Hello").field.push(field);
        }),
        ("a field that is gone and reserved", |s| {
            remove(s, "Hello", "hostname");
            reserve(s, "Hello", 13, "hostname");
        }),
        ("a new message", |s| {
            s.file[0].message_type.push(DescriptorProto { name: Some("New".into()), ..Default::default() })
        }),
        ("a new call", |s| {
            let mut call = execution(s).method[1].clone();
            call.name = Some("New".into());
            execution(s).method.push(call);
        }),
    ];
    for (what, change) in harmless {
        let mut changed = today.clone();
        change(&mut changed);
        assert_eq!(breaks(&today, &changed), Vec::<String>::new(), "{what}");
    }
}

#[test]
fn what_was_reserved_stays_so() {
    let mut before = todays();
    remove(&mut before, "Hello", "hostname");
    reserve(&mut before, "Hello", 13, "hostname");
    // the number or the name used again, or free to be
    let mut free = before.clone();
    message_of(&mut free, "Hello").reserved_range.clear();
    let mut number = before.clone();
    let field = FieldDescriptorProto { name: Some("other".into()), number: Some(13), ..Default::default() };
    message_of(&mut number, "Hello").field.push(field);
    let mut name = before.clone();
    let field = FieldDescriptorProto { name: Some("hostname".into()), number: Some(900), ..Default::default() };
    message_of(&mut name, "Hello").field.push(field);
    for (changed, said) in
        [(free, "not reserved any more"), (number, "13 (other) was reserved"), (name, "900 (hostname)")]
    {
        let wrong = breaks(&before, &changed);
        assert!(wrong.iter().any(|w| w.contains(said)), "{wrong:?}");
    }
    let mut values = todays();
    let last = kinds_of_jobs(&mut values).value.pop().expect("one");
    kinds_of_jobs(&mut values).reserved_name.push(last.name().to_owned());
    let range = prost_types::enum_descriptor_proto::EnumReservedRange { start: last.number, end: last.number };
    kinds_of_jobs(&mut values).reserved_range.push(range);
    assert_eq!(breaks(&todays(), &values), Vec::<String>::new());
    assert_eq!(breaks(&values, &todays()).len(), 2, "{:?}", breaks(&values, &todays()));
}
