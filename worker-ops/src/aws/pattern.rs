//! What the table's patterns mean: texts with paths in braces, `{partition}` and `{region}` among them, as in
//! `arn:{partition}:ec2:{region}:{ownerId}:vpc/{vpcId}`.

use serde_json::Value;
use shared_proto::aws::Partition;

use super::tree;
use crate::net::url;

/// Something of a list, and what it stands in.
pub(super) struct Item<'v> {
    pub(super) value: &'v Value,
    pub(super) around: Option<&'v Value>,
}

// === impl Item ===

impl Item<'_> {
    /// What stands at a path, or around the item; `last:` before the path takes what is last in an ARN or a path, `before:` what is before it.
    pub(super) fn value_of(&self, expression: &str) -> String {
        let (part, path) = expression.split_once(':').unwrap_or(("", expression));
        let own = tree::text(self.value, path);
        let text = match self.around {
            Some(around) if own.is_empty() => tree::text(around, path),
            _ => own,
        };
        let mut parts = text.rsplit(['/', ':']);
        match part {
            "last" => parts.next().unwrap_or_default().to_owned(),
            "before" => parts.nth(1).unwrap_or_default().to_owned(),
            _ => text,
        }
    }

    /// A pattern with what its braces name.
    pub(super) fn fill(&self, pattern: &str, region: &str, escaped: bool) -> String {
        let mut out = String::new();
        let mut rest = pattern;
        while let Some((before, (expression, after))) =
            rest.split_once('{').and_then(|(before, more)| Some((before, more.split_once('}')?)))
        {
            out.push_str(before);
            let value = match expression {
                "partition" => Partition::of(region).name.to_owned(),
                "region" => region.to_owned(),
                expression => self.value_of(expression),
            };
            out.push_str(&if escaped { url::encode(&value) } else { value });
            rest = after;
        }
        out.push_str(rest);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fill(pattern: &str, value: &Value, around: Option<&Value>, escaped: bool) -> String {
        Item { value, around }.fill(pattern, "cn-north-1", escaped)
    }

    #[test]
    fn patterns() {
        let (item, around) = (json!({"id": "i-1", "a": {"b": "x/y"}}), json!({"ownerId": "123"}));
        let arn = "arn:{partition}:ec2:{region}:{ownerId}:instance/{id}";
        assert_eq!(fill(arn, &item, Some(&around), false), "arn:aws-cn:ec2:cn-north-1:123:instance/i-1");
        assert_eq!(fill("p?n={a/b}&x", &item, None, true), "p?n=x%2Fy&x");
        assert_eq!(fill("{last:a/b} {before:a/b} {none}", &item, None, false), "y x ");
        let url = json!("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/jobs");
        assert_eq!(fill("{before:}:{last:}", &url, None, false), "123456789012:jobs");
        assert_eq!(fill("", &item, None, false), "");
    }
}
