//! The words of the engines' language, as far as it takes to find a declaration or a setting: comments, texts with what is put into them,
//! heredocs and brackets are told apart, and nothing is evaluated. What is not understood is no answer, never a guess.

/// How deep texts may stand in one another.
const DEPTH_MAX: u32 = 64;

/// A word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// A name or a keyword.
    Word(String),
    /// A quoted text or a heredoc, its content as it is written.
    Text(String),
    /// `(`, `[` or `{`.
    Open,
    /// `)`, `]` or `}`.
    Close,
    /// A single `=`.
    Equals,
    /// The end of a line.
    Newline,
    /// Anything else.
    Other,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The words of a file; `None` where a text, a comment or a heredoc does not end.
pub(crate) fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut reader = Reader { bytes: text.trim_start_matches('\u{feff}').as_bytes(), at: 0 };
    let mut tokens = Vec::new();
    while let Some(byte) = reader.peek(0) {
        if reader.comment()? {
            continue;
        }
        let token = match byte {
            b' ' | b'\t' | b'\r' => {
                reader.at += 1;
                continue;
            }
            b'"' => {
                reader.at += 1;
                Token::Text(reader.quoted(0)?)
            }
            b'<' => match reader.heredoc(0)? {
                Some(text) => Token::Text(text),
                None => reader.operator(),
            },
            b'!' | b'>' | b'=' => reader.operator(),
            b'\n' => reader.one(Token::Newline),
            b'(' | b'[' | b'{' => reader.one(Token::Open),
            b')' | b']' | b'}' => reader.one(Token::Close),
            b'0'..=b'9' => {
                reader.word();
                Token::Other
            }
            byte if is_word(byte) => Token::Word(reader.word()),
            _ => reader.one(Token::Other),
        };
        tokens.push(token);
    }
    Some(tokens)
}

/// Every text in it; none where it is not understood.
pub(crate) fn texts(text: &str) -> Vec<String> {
    let texts = tokens(text).unwrap_or_default().into_iter();
    texts.filter_map(|token| if let Token::Text(text) = token { Some(text) } else { None }).collect()
}

fn is_word(byte: u8) -> bool {
    // letters of other scripts are letters here too
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || byte >= 0x80
}

// === impl Reader ===

impl Reader<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }
    fn one(&mut self, token: Token) -> Token {
        self.at += 1;
        token
    }
    /// `=`, `==`, `=>`, `!=`, `<=`, `>=` and the like.
    fn operator(&mut self) -> Token {
        let double = matches!((self.peek(0), self.peek(1)), (_, Some(b'=')) | (Some(b'='), Some(b'>')));
        let token = if self.peek(0) == Some(b'=') && !double { Token::Equals } else { Token::Other };
        self.at += if double { 2 } else { 1 };
        token
    }
    fn word(&mut self) -> String {
        let start = self.at;
        while self.peek(0).is_some_and(is_word) {
            self.at += 1;
        }
        String::from_utf8_lossy(&self.bytes[start..self.at]).into_owned()
    }
    fn skip_line(&mut self) {
        while self.peek(0).is_some_and(|b| b != b'\n') {
            self.at += 1;
        }
    }

    /// Goes over a comment, if there is one.
    fn comment(&mut self) -> Option<bool> {
        match (self.peek(0), self.peek(1)) {
            (Some(b'#'), _) | (Some(b'/'), Some(b'/')) => self.skip_line(),
            (Some(b'/'), Some(b'*')) => {
                let rest = &self.bytes[self.at + 2..];
                self.at += 4 + rest.windows(2).position(|pair| pair == b"*/")?;
            }
            _ => return Some(false),
        }
        Some(true)
    }

    /// To the end of a text that has begun.
    fn quoted(&mut self, depth: u32) -> Option<String> {
        let start = self.at;
        loop {
            match self.peek(0)? {
                b'"' => {
                    self.at += 1;
                    return Some(String::from_utf8_lossy(&self.bytes[start..self.at - 1]).into_owned());
                }
                b'\\' => self.at += 2,
                b'\n' => return None,
                _ => self.content(depth)?,
            }
        }
    }

    /// Over one byte of a text, or over what is put into it there: `${…}` and `%{…}`, not `$${…}` and `%%{…}`.
    fn content(&mut self, depth: u32) -> Option<()> {
        match (self.peek(0), self.peek(1), self.peek(2)) {
            (Some(b'$'), Some(b'$'), Some(b'{')) | (Some(b'%'), Some(b'%'), Some(b'{')) => self.at += 3,
            (Some(b'$' | b'%'), Some(b'{'), _) => {
                self.at += 2;
                self.inside(depth + 1)?;
            }
            _ => self.at += 1,
        }
        Some(())
    }

    /// Over an expression in a text, and its closing brace.
    fn inside(&mut self, depth: u32) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        let mut open = 0_usize;
        loop {
            if self.comment()? {
                continue;
            }
            match self.peek(0)? {
                b'"' => {
                    self.at += 1;
                    self.quoted(depth)?;
                    continue;
                }
                b'<' if self.heredoc(depth)?.is_some() => continue,
                b'{' => open += 1,
                b'}' if open == 0 => {
                    self.at += 1;
                    return Some(());
                }
                b'}' => open -= 1,
                _ => {}
            }
            self.at += 1;
        }
    }

    /// A heredoc, if there is one: `<<MARK` or `<<-MARK`, and lines up to one that is the mark alone.
    fn heredoc(&mut self, depth: u32) -> Option<Option<String>> {
        let before = self.at;
        if self.bytes[self.at..].starts_with(b"<<") {
            self.at += if self.peek(2) == Some(b'-') { 3 } else { 2 };
            let mark = self.word();
            let newline = if self.peek(0) == Some(b'\r') { 1 } else { 0 };
            if !mark.is_empty() && self.peek(newline) == Some(b'\n') {
                self.at += newline + 1;
                return self.lines_until(&mark, depth).map(Some);
            }
            self.at = before;
        }
        Some(None)
    }

    fn lines_until(&mut self, mark: &str, depth: u32) -> Option<String> {
        let start = self.at;
        loop {
            let line = self.at;
            let rest = &self.bytes[line..];
            let length = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
            if rest[..length].trim_ascii() == mark.as_bytes() {
                self.at += length;
                return Some(String::from_utf8_lossy(&self.bytes[start..line]).into_owned());
            }
            while self.peek(0)? != b'\n' {
                self.content(depth)?;
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Option<String> {
        let shown = tokens(text)?.into_iter().map(|token| match token {
            Token::Word(word) => word,
            Token::Text(text) => format!("'{text}'"),
            Token::Open => "(".into(),
            Token::Close => ")".into(),
            Token::Equals => "=".into(),
            Token::Newline => ";".into(),
            Token::Other => "?".into(),
        });
        Some(shown.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn words_are_told_apart() {
        for (text, expected) in [
            ("a = b", "a = b"),
            ("\u{feff}a", "a"),
            ("a # b = \"\n// c {\nd", "a ; ; d"),
            ("a /* } \n \" */ b", "a b"),
            (r#"a = "x \" # }" # c"#, r#"a = 'x \" # }'"#),
            (r#""a ${f("}", { b = "${c}" })} d" e"#, r#"'a ${f("}", { b = "${c}" })} d' e"#),
            (r#""$${ not" a"#, "'$${ not' a"),
            (r#""%{ if a == "}" }x%{ endif }" b"#, r#"'%{ if a == "}" }x%{ endif }' b"#),
            ("a = <<EOT\n } \" # \n  EOT\nb", "a = ' } \" # \n' ; b"),
            ("a = <<-E\r\n x ${f(\n\"E\"\n)}\n  E\r\nb", "a = ' x ${f(\n\"E\"\n)}\n' ; b"),
            ("a << b", "a ? ? b"),
            ("a == b != c <= d >= e => f < g", "a ? b ? c ? d ? e ? f ? g"),
            ("[1.5, x-y, größe]", "( ? ? ? ? x-y ? größe )"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(expected), "{text}");
        }
        let deep = "\"${".repeat(1000);
        for text in ["\"open", "\"line\nend\"", "/* open", "a = <<E\nopen", "\"${open\"", "\"\\", &deep] {
            assert_eq!(shown(text), None, "{text}");
        }
        // whatever it is given, it ends
        let all = "a = \"x ${f(\"}\")} y\" /* c */ <<E\nz ${b}\nE\n%{ é";
        for cut in (0..all.len()).filter(|cut| all.is_char_boundary(*cut)) {
            let _ = tokens(&all[..cut]);
            let _ = tokens(&all[cut..]);
        }
    }
}
