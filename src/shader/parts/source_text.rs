//! Where statements begin and end in WGSL, whose spans naga gives in bytes.

use std::ops::Range;

/// WGSL by statements and lines.
pub(super) struct SourceText<'a> {
    text: &'a str,
    /// The bytes at which statements begin and end: from behind a `;`, `{` or `}` outside parentheses to behind the next.
    statements: Vec<Range<usize>>,
    /// The byte at which each line begins.
    lines: Vec<usize>,
}

impl<'a> SourceText<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut statements = Vec::new();
        let (mut depth, mut begin) = (0usize, None);
        let mut rest = text.char_indices().peekable();
        while let Some((at, c)) = rest.next() {
            let next = rest.peek().map(|&(_, c)| c);
            match (c, next) {
                ('/', Some('/')) => while rest.next_if(|&(_, c)| c != '\n').is_some() {},
                ('/', Some('*')) => {
                    // Block comments nest in WGSL.
                    let mut open = 0usize;
                    let mut last = c;
                    for (_, c) in rest.by_ref() {
                        match (last, c) {
                            ('/', '*') => (open, last) = (open + 1, ' '),
                            ('*', '/') => (open, last) = (open - 1, ' '),
                            _ => last = c,
                        }
                        if open == 0 {
                            break;
                        }
                    }
                }
                (c, _) if c.is_whitespace() => {}
                (c, _) => {
                    let first = *begin.get_or_insert(at);
                    match c {
                        '(' | '[' => depth += 1,
                        ')' | ']' => depth = depth.saturating_sub(1),
                        ';' | '{' | '}' if depth == 0 => {
                            statements.push(first..at + 1);
                            begin = None;
                        }
                        _ => {}
                    }
                }
            }
        }
        Self { text, statements, lines }
    }

    /// The number of the statement at a byte.
    pub(super) fn statement(&self, at: usize) -> usize {
        self.statements.partition_point(|statement| statement.end <= at)
    }

    /// The lines of a statement.
    pub(super) fn lines(&self, statement: usize) -> Range<usize> {
        let bytes = self.statements.get(statement).cloned().unwrap_or(self.text.len()..self.text.len());
        self.line(bytes.start)..self.line(bytes.end.saturating_sub(1)) + 1
    }

    /// Whether a statement is what stands before a block: `for (…) {`.
    pub(super) fn opens_a_block(&self, statement: usize) -> bool {
        self.statements.get(statement).is_some_and(|bytes| self.text[bytes.clone()].ends_with('{'))
    }

    /// The line of a byte.
    pub(super) fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|&begin| begin <= at).saturating_sub(1)
    }

    /// The lines of a function, from the line of its name to that of its last brace.
    pub(super) fn function(&self, name: &str) -> Range<usize> {
        let begin = format!("fn {name}(");
        let bytes = |statement: &Range<usize>| &self.text[statement.clone()];
        let mut statements = self.statements.iter().skip_while(|s| !bytes(s).contains(&begin));
        let Some(header) = statements.next() else { return 0..0 };
        let first = header.start + bytes(header).find(&begin).unwrap_or(0);
        let mut open = 1usize;
        let last = statements.find(|statement| {
            match self.text.as_bytes().get(statement.end - 1) {
                Some(b'{') => open += 1,
                Some(b'}') => open -= 1,
                _ => {}
            }
            open == 0
        });
        self.line(first)..self.line(last.map_or(first, |last| last.end - 1)) + 1
    }
}
