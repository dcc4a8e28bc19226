//! How a type of the table is listed: its pages, what more is asked about what they hold, and the resource that comes of each item.

use futures_util::future::join_all;
use serde_json::{Value, json};
use shared_proto::aws::Partition;
use shared_proto::documents::Resource;
use shared_proto::failure::Code;
use shared_proto::inventory;
use shared_proto::v1::ListResources;
use std::collections::{BTreeMap, HashMap};

use super::connect::{Account, Asking, Parameters, Service, TAGGING};
use super::kinds::{self, Call, Details, Kind, Sent, Tags};
use super::pattern::Item;
use super::tree;
use crate::fault::Fault;
use crate::found::Wanted;
use crate::net::url;

/// Pages of one list: a service that gives empty pages for ever must not be read for ever.
pub(super) const PAGES_MAX: u32 = 1000;
/// Calls about single resources that run at once.
const LANES: usize = 8;
/// The most resources of a type whose tags are remembered, and the most that others are in.
const REMEMBERED_MAX: usize = 50_000;

/// What was found of one type, in the order of the service.
pub(super) struct Kept<'a> {
    wanted: &'a Wanted,
    most: usize,
    pub(super) items: Vec<Resource>,
    /// There is more than is kept.
    pub(super) more: bool,
    /// What is missing of what was found.
    pub(super) faults: Vec<Fault>,
}

/// One type that is being listed.
struct Listing<'a, 'k> {
    account: &'a Account,
    kind: &'static Kind,
    asked: &'a ListResources,
    asking: Asking<'a>,
    /// Tags by ARN, where they are not with the resources; `None`: not asked for yet.
    tags: Option<HashMap<String, BTreeMap<String, String>>>,
    kept: &'k mut Kept<'a>,
}

// === impl Kept ===

impl<'a> Kept<'a> {
    /// Takes so many.
    pub(super) fn new(wanted: &'a Wanted, most: usize) -> Self {
        Self { wanted, most, items: Vec::new(), more: false, faults: Vec::new() }
    }
    /// Keeps it if it is wanted; `false`: no more is kept, and none is to be looked for.
    pub(super) fn add(&mut self, resource: Resource) -> bool {
        if self.wanted.fits(&resource) {
            if self.items.len() == self.most {
                self.more = true;
                return false;
            }
            self.items.push(resource);
        }
        true
    }
}

/// Lists a type of the table.
pub(super) async fn list<'a>(
    account: &'a Account,
    kind: &'static Kind,
    asked: &'a ListResources,
    kept: &mut Kept<'a>,
) -> Result<(), Fault> {
    if !inventory::aws_is_listed(kind.name, &asked.place, account.region()) {
        return Ok(());
    }
    let mut listing = Listing { account, kind, asked, asking: account.ask(kind.service)?, tags: None, kept };
    let Some((call, sent)) = &kind.parents else {
        listing.within(None).await?;
        return Ok(());
    };
    for parent in listing.parents(call, sent).await? {
        match listing.within(Some((sent.name, &parent))).await {
            Ok(true) => {}
            Ok(false) => break,
            // gone between the list and the look
            Err(fault) if fault.code() == Code::TargetNotFound => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

// === impl Listing ===

impl Listing<'_, '_> {
    /// What the resources are in.
    async fn parents(&mut self, call: &'static Call, sent: &Sent) -> Result<Vec<String>, Fault> {
        let (mut parents, mut mark) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let answer = self.page(call, None, &mark).await?;
            parents.extend(tree::at(&answer, call.items).into_iter().map(|parent| tree::text(parent, sent.from)));
            mark = tree::text(&answer, call.next.1);
            if mark.is_empty() {
                return Ok(parents);
            }
            if parents.len() > REMEMBERED_MAX {
                break;
            }
        }
        self.kept.more = true;
        Ok(parents)
    }

    /// Every page of what is in that; `false`: enough was found.
    async fn within(&mut self, parent: Option<(&'static str, &str)>) -> Result<bool, Fault> {
        let kind = self.kind;
        let mut mark = String::new();
        for _ in 0..PAGES_MAX {
            let answer = self.page(&kind.list, parent, &mark).await?;
            for (value, around) in self.told(&answer, parent).await? {
                let item = Item { value: &value, around: around.as_ref() };
                let resource = self.resource(&item).await?;
                if !self.kept.add(resource) {
                    return Ok(false);
                }
            }
            mark = if kind.list.next.1.is_empty() { String::new() } else { tree::text(&answer, kind.list.next.1) };
            if mark.is_empty() {
                return Ok(true);
            }
        }
        self.kept.more = true;
        Ok(false)
    }

    async fn page(
        &mut self,
        call: &'static Call,
        parent: Option<(&'static str, &str)>,
        mark: &str,
    ) -> Result<Value, Fault> {
        let mut parameters = with(call, self.account.region());
        parameters.extend(parent.map(|(name, value)| (name, json!(value))));
        if !mark.is_empty() {
            parameters.push((call.next.0, json!(mark)));
        }
        self.asking.call(call.operation, call.path, parameters).await
    }

    /// The items of a page with all that is to be told of them, and what they stand in.
    async fn told(
        &mut self,
        answer: &Value,
        parent: Option<(&'static str, &str)>,
    ) -> Result<Vec<(Value, Option<Value>)>, Fault> {
        let kind = self.kind;
        let listed = tree::at(answer, kind.list.items);
        let told = match &kind.details {
            Details::None if !kind.list.within.is_empty() => {
                let around = |outer: &Value| {
                    let mut around = outer.clone();
                    // it is told of each, without the others
                    if let (Some(map), Some(first)) = (around.as_object_mut(), kind.list.within.split('/').next()) {
                        map.remove(first);
                    }
                    around
                };
                let inner = |outer: &Value| {
                    let found = tree::at(outer, kind.list.within).into_iter();
                    found.map(|value| (value.clone(), Some(around(outer)))).collect::<Vec<_>>()
                };
                listed.into_iter().flat_map(inner).collect()
            }
            Details::None => listed.into_iter().map(|value| (value.clone(), None)).collect(),
            Details::Each(call, sent) => {
                let mut told = Vec::new();
                for answer in each(self.account, kind.service, call, sent, &listed).await {
                    match answer {
                        Ok(answer) => told.extend(tree::at(&answer, call.items).into_iter().map(|v| (v.clone(), None))),
                        // gone between the list and the look
                        Err(fault) if fault.code() == Code::TargetNotFound => {}
                        Err(fault) => return Err(fault),
                    }
                }
                told
            }
            Details::Batch(call, sent, most) => {
                let mut told = Vec::new();
                for some in listed.chunks(*most) {
                    let names: Vec<_> = some.iter().map(|value| tree::text(value, sent.from)).collect();
                    let mut parameters = vec![(sent.name, json!(names)), ("include", json!(["TAGS"]))];
                    parameters.extend(parent.map(|(name, value)| (name, json!(value))));
                    let answer = self.asking.call(call.operation, call.path, parameters).await?;
                    told.extend(tree::at(&answer, call.items).into_iter().map(|value| (value.clone(), None)));
                }
                told
            }
        };
        if kind.service.signing == "s3" {
            return self.buckets_here(told).await;
        }
        match &kind.tags {
            Tags::Each(call, sent) if !self.asked.tags.is_empty() => self.with_tags(call, sent, told).await,
            _ => Ok(told),
        }
    }

    /// Each with its tags, as what it stands in, where they are had one by one.
    async fn with_tags(
        &mut self,
        call: &'static Call,
        sent: &Sent,
        told: Vec<(Value, Option<Value>)>,
    ) -> Result<Vec<(Value, Option<Value>)>, Fault> {
        let values: Vec<_> = told.iter().map(|(value, _)| value).collect();
        let answers = each(self.account, self.kind.service, call, sent, &values).await;
        let mut tagged = Vec::new();
        for ((value, _), answer) in told.into_iter().zip(answers) {
            match answer {
                Ok(answer) => tagged.push((value, Some(answer))),
                Err(fault) if fault.code() == Code::TargetNotFound => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(tagged)
    }

    /// Those of the region: AWS gives no others, and says so; of what says nothing of it, each bucket is asked.
    async fn buckets_here(&mut self, told: Vec<(Value, Option<Value>)>) -> Result<Vec<(Value, Option<Value>)>, Fault> {
        let (known, unknown): (Vec<_>, Vec<_>) =
            told.into_iter().partition(|(bucket, _)| !tree::text(bucket, "BucketRegion").is_empty());
        let region = self.account.region();
        let mut here: Vec<_> =
            known.into_iter().filter(|(bucket, _)| tree::text(bucket, "BucketRegion") == region).collect();
        let values: Vec<_> = unknown.iter().map(|(bucket, _)| bucket).collect();
        let sent = Sent { name: "", from: "Name" };
        let answers = each(self.account, self.kind.service, &kinds::BUCKET_LOCATION, &sent, &values).await;
        for (bucket, answer) in unknown.into_iter().zip(answers) {
            match answer {
                Ok(place) if bucket_region(&place) == region => here.push(bucket),
                Ok(_) => {}
                // it is elsewhere, or gone
                Err(fault) if matches!(fault.code(), Code::TargetNotFound | Code::TargetRefused) => {}
                Err(fault) => self.kept.faults.push(fault),
            }
        }
        Ok(here)
    }

    /// What comes of an item.
    async fn resource(&mut self, item: &Item<'_>) -> Result<Resource, Fault> {
        let kind = self.kind;
        let region = self.account.region();
        let id = item.fill(kind.id, region, false);
        let tags = match &kind.tags {
            Tags::At("") => BTreeMap::new(),
            Tags::At(path) => tree::tags(item.value, path),
            Tags::Each(call, _) => item.around.map(|told| tree::tags(told, call.items)).unwrap_or_default(),
            Tags::Tagging(of) => self.tagged(of).await?.get(&id).cloned().unwrap_or_default(),
        };
        let named = tags.get("Name").filter(|name| kind.service.signing == "ec2" && !name.is_empty());
        let console = Partition::of(region).console;
        let identifier = item.fill(kind.identifier, region, false);
        Ok(Resource {
            type_name: kind.name.to_owned(),
            name: named.cloned().unwrap_or_else(|| item.value_of(kind.title)),
            location: if inventory::aws_is_global(kind.name) { String::new() } else { region.to_owned() },
            state: if kind.state.is_empty() { String::new() } else { item.value_of(kind.state) },
            created_at: if kind.created.is_empty() { None } else { tree::time(item.value, kind.created) },
            link: if console.is_empty() {
                String::new()
            } else {
                format!("https://{console}/{}", item.fill(kind.link, region, true))
            },
            identifier: if identifier == id { String::new() } else { identifier },
            id,
            tags,
            properties: None,
        })
    }

    /// The tags of all resources that the Tagging API calls that, by their ARNs. Where they are refused and nobody asks for any, resources
    /// are listed without.
    async fn tagged(&mut self, of: &str) -> Result<&HashMap<String, BTreeMap<String, String>>, Fault> {
        if self.tags.is_none() {
            let tags = match tags_of_type(self.account, of).await {
                Ok(tags) => tags,
                Err(fault) if self.asked.tags.is_empty() && fault.code() != Code::CredentialsExpired => {
                    self.kept.faults.push(fault.looked_in("the tags of these resources"));
                    HashMap::new()
                }
                Err(fault) => return Err(fault),
            };
            self.tags = Some(tags);
        }
        Ok(self.tags.get_or_insert_default())
    }
}

/// The parameters of every page; a number in the table is a number in JSON.
pub(super) fn with(call: &'static Call, region: &str) -> Parameters<'static> {
    let value = |text: &str| match text.parse::<u32>() {
        Ok(number) => json!(number),
        Err(_) => json!(text.replace("{region}", region)),
    };
    call.with.iter().map(|(name, text)| (*name, value(text))).collect()
}

/// Asks once about each of them, a few at once; the answers are in their order.
async fn each(
    account: &Account,
    service: Service,
    call: &'static Call,
    sent: &Sent,
    values: &[&Value],
) -> Vec<Result<Value, Fault>> {
    let lanes = values.chunks(values.len().div_ceil(LANES).max(1)).map(|some| async move {
        let mut answers = Vec::new();
        let mut asking = match account.ask(service) {
            Ok(asking) => asking,
            Err(fault) => return some.iter().map(|_| Err(fault.clone())).collect(),
        };
        for value in some {
            let text = Item { value, around: None }.value_of(sent.from);
            let path = call.path.replace("{}", &url::encode(&text));
            let mut parameters = with(call, account.region());
            if !sent.name.is_empty() {
                parameters.push((sent.name, json!(text)));
            }
            answers.push(asking.call(call.operation, &path, parameters).await);
        }
        answers
    });
    join_all(lanes).await.into_iter().flatten().collect()
}

async fn tags_of_type(account: &Account, of: &str) -> Result<HashMap<String, BTreeMap<String, String>>, Fault> {
    let call = &kinds::TAGGED;
    let mut asking = account.ask(TAGGING)?;
    let (mut tags, mut mark) = (HashMap::new(), String::new());
    for _ in 0..PAGES_MAX {
        let mut parameters = with(call, account.region());
        parameters.push(("ResourceTypeFilters", json!([of])));
        if !mark.is_empty() {
            parameters.push((call.next.0, json!(mark)));
        }
        let answer = asking.call(call.operation, call.path, parameters).await?;
        for mapping in tree::at(&answer, call.items) {
            tags.insert(tree::text(mapping, "ResourceARN"), tree::tags(mapping, "Tags"));
        }
        mark = tree::text(&answer, call.next.1);
        if mark.is_empty() {
            return Ok(tags);
        }
        if tags.len() > REMEMBERED_MAX {
            break;
        }
    }
    let message = format!("more than {REMEMBERED_MAX} resources of one type have tags");
    Err(Fault::new(Code::TooLarge, message).next("Ask for `tagged`, which lists them by their tags."))
}

/// Where a bucket is, as S3 says it: the oldest regions have words of their own.
fn bucket_region(place: &Value) -> &str {
    match place.as_str().or_else(|| place.get("LocationConstraint")?.as_str()) {
        None | Some("") => "us-east-1",
        Some("EU") => "eu-west-1",
        Some(region) => region,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_buckets_are() {
        for (place, region) in
            [(json!(""), "us-east-1"), (json!("EU"), "eu-west-1"), (json!("eu-central-1"), "eu-central-1")]
        {
            assert_eq!(bucket_region(&place), region);
        }
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let wanted = Wanted::of(&ListResources { text: "X".into(), ..Default::default() });
        let resource = |name: &str| Resource { name: name.into(), ..Default::default() };
        let mut kept = Kept::new(&wanted, 1);
        assert!(kept.add(resource("ax")) && kept.add(resource("b")) && !kept.more);
        assert!(!kept.add(resource("x")) && kept.more && kept.items.len() == 1);
    }

    #[test]
    fn what_is_in_no_region() {
        for kind in kinds::KINDS {
            let global = ["iam", "route53"].contains(&kind.service.signing);
            assert_eq!(inventory::aws_is_global(kind.name), global, "{}", kind.name);
        }
    }
}
