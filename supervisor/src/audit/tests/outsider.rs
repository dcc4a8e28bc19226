//! The recipe of docs/audit.md, for whoever has no runner: sha256sum, jq and openssl find the same.

use super::*;
use std::process::Command;

/// As it stands in docs/audit.md.
const RECIPE: &str = r#"
set -eu
file=$1
runner=$(head -n 1 "$file" | jq -r .runner)
head -n 1 "$file" | jq -r '"-----BEGIN PUBLIC KEY-----\n\(.key)\n-----END PUBLIC KEY-----"' > "$2/key.pem"
prev=$(head -n 1 "$file" | jq -r .prev)
while IFS= read -r line; do
    seq=$(printf %s "$line" | jq -r .seq)
    hash=$(printf %s "${line%,\"hash\":*}" | sha256sum | cut -d ' ' -f 1)
    test "$hash" = "$(printf %s "$line" | jq -r .hash)" || { echo "number $seq: changed"; exit 1; }
    test "$prev" = "$(printf %s "$line" | jq -r .prev)" || { echo "number $seq: does not follow"; exit 1; }
    prev=$hash
    sig=$(printf %s "$line" | jq -r '.sig // empty')
    if [ -n "$sig" ]; then
        digest=$(printf %s "${line%,\"sig\":*}" | sha256sum | cut -d ' ' -f 1)
        printf 'runner-audit-v1\n%s\n%s\n%s\n' "$runner" "$seq" "$digest" > "$2/message"
        printf %s "$sig" | base64 -d > "$2/sig"
        openssl pkeyutl -verify -pubin -inkey "$2/key.pem" -rawin -in "$2/message" -sigfile "$2/sig" > /dev/null \
            || { echo "number $seq: signature"; exit 1; }
    fi
done < "$file"
echo good
"#;

fn run(file: &Path, scratch: &Path) -> String {
    let done = Command::new("sh").args(["-c", RECIPE, "sh"]).arg(file).arg(scratch).output().expect("runs");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[test]
fn whoever_has_no_runner_can_verify_too() {
    for tool in ["jq", "openssl", "sha256sum", "base64"] {
        if !Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success() || tool == "openssl") {
            println!("skipped: there is no {tool} here");
            return;
        }
    }
    let (folder, scratch) = (super::folder(), super::folder());
    let public = log_of(folder.path(), 15);
    let path = file(folder.path(), 1);
    assert_eq!(run(&path, scratch.path()), "good\n");
    let pem = std::fs::read_to_string(scratch.path().join("key.pem")).expect("reads");
    assert_eq!(PublicKey::from_text(&pem).expect("a key"), public);
    let text = std::fs::read_to_string(&path).expect("reads");
    std::fs::write(&path, text.replacen("anna", "emma", 1)).expect("writes");
    assert_eq!(run(&path, scratch.path()), "number 3: changed\n");
    // the private key is one that openssl knows, of the same public key
    let out = Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(folder.path().join("key")).output();
    assert_eq!(String::from_utf8_lossy(&out.expect("runs").stdout), public.to_pem());
}

#[test]
fn the_page_gives_this_recipe() {
    let page =
        [concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/audit.md"), concat!(env!("CARGO_MANIFEST_DIR"), "/audit.md")];
    let Some(page) = page.iter().find_map(|page| std::fs::read_to_string(page).ok()) else {
        panic!("docs/audit.md is missing");
    };
    assert!(page.contains(RECIPE.trim()), "docs/audit.md gives another recipe than the one that is tested");
}
