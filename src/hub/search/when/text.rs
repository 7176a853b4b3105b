//! A typed line as words, numbers and signs.
//!
//! Owns the cutting of text, and dates in it. May not know the clock.

use jiff::civil::Date;

use super::{Seconds, unit};
use crate::hub::search::names::fold_marks;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    Number(Number),
    Word(String),
    /// `-` for every dash, `±` for every way to write it, `:` `/` `.` `,`.
    Symbol(char),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    pub value: i64,
    pub digits: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(Vec<Token>);

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

impl Text {
    pub fn of(text: &str) -> Self {
        // With its mark "tới" (until) is not "tối" (evening); without marks only its neighbours tell.
        let text = fold_marks(&mark_until(text)).replace("+/-", "±").replace("+-", "±");
        let text = text.replace(['–', '—', '−', '→'], "-").replace("->", "-");
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c.is_ascii_digit() {
                let mut digits = String::from(c);
                while let Some(d) = chars.next_if(char::is_ascii_digit) {
                    digits.push(d);
                }
                // More digits than a year has are no part of a time.
                let value = digits.parse().unwrap_or(i64::from(u32::MAX)).min(i64::from(u32::MAX));
                tokens.push(Token::Number(Number { value, digits: digits.len() }));
            } else if c.is_alphabetic() {
                let mut word = String::from(c);
                while let Some(l) = chars.next_if(|l| l.is_alphabetic()) {
                    word.push(l);
                }
                tokens.push(Token::Word(word));
            } else if matches!(c, '-' | '±' | ':' | '/' | '.' | ',') {
                tokens.push(Token::Symbol(c));
            } else if !c.is_whitespace() {
                // What stands for nothing must not be read past.
                tokens.push(Token::Word(c.to_string()));
            }
        }
        let mut text = Self(tokens);
        text.turn_iso_dates();
        text
    }

    pub fn tokens(&self) -> &[Token] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn ends_with(&self, word: &str) -> bool {
        matches!(self.0.last(), Some(Token::Word(w)) if w == word)
    }

    /// "nay", "bây giờ", "now".
    pub fn is_now(&self) -> bool {
        let now: [&[&str]; 5] = [&["nay"], &["bay", "gio"], &["gio"], &["hien", "tai"], &["now"]];
        now.iter().any(|words| words.len() == self.0.len() && self.find(words) == Some(0))
    }

    pub fn has(&self, words: &[&str]) -> bool {
        self.find(words).is_some()
    }

    fn find(&self, words: &[&str]) -> Option<usize> {
        (0..self.0.len()).find(|&at| self.stands_at(at, words))
    }

    fn stands_at(&self, at: usize, words: &[&str]) -> bool {
        let is = |(token, word): (&Token, &&str)| match token {
            Token::Word(w) => w == word,
            Token::Number(n) => word.parse() == Ok(n.value),
            Token::Symbol(_) => false,
        };
        self.0.len() >= at + words.len() && self.0[at..].iter().zip(words).all(is)
    }

    /// Takes the words out, wherever they stand together.
    pub fn take(&mut self, words: &[&str]) -> bool {
        match self.find(words) {
            Some(at) => {
                self.0.drain(at..at + words.len());
                true
            }
            None => false,
        }
    }

    pub fn strip_start(&mut self, words: &[&str]) -> bool {
        let is_there = self.stands_at(0, words);
        if is_there {
            self.0.drain(..words.len());
        }
        is_there
    }

    pub fn strip_end(&mut self, words: &[&str]) -> bool {
        let Some(at) = self.0.len().checked_sub(words.len()) else { return false };
        let is_there = self.stands_at(at, words);
        if is_there {
            self.0.truncate(at);
        }
        is_there
    }

    /// Drops words that say nothing, and commas.
    pub fn drop_words(&mut self, words: &[&str]) {
        self.0.retain(|token| match token {
            Token::Word(word) => !words.contains(&word.as_str()),
            Token::Symbol(',') => false,
            _ => true,
        });
    }

    /// "22:15 ± 20p": what stands before the sign, and the time on both sides; minutes without a unit.
    pub fn split_around(&self) -> Option<(Self, Seconds)> {
        let is_sign = |token: &Token| match token {
            Token::Symbol('±') => true,
            Token::Word(word) => word == "khoang" || word == "around",
            _ => false,
        };
        let at = self.0.iter().rposition(is_sign).filter(|&at| at > 0)?;
        let seconds = match &self.0[at + 1..] {
            [Token::Number(n)] => n.value * 60,
            [Token::Number(n), Token::Word(word)] => n.value * unit(word)?,
            _ => return None,
        };
        Some((Self(self.0[..at].to_vec()), seconds))
    }

    /// Splits at the dash or word that means "to"; before it there must be a time or a day.
    pub fn split_range(&self) -> Option<(Self, Self)> {
        for (at, token) in self.0.iter().enumerate() {
            let is_split = match token {
                Token::Symbol('-') => true,
                Token::Word(word) => match word.as_str() {
                    "den" | "to" | "until" | "till" | "and" | "va" => true,
                    // Also "tối": a number, "lúc" or "hôm" behind it and a number before it tell.
                    "toi" => match self.0.get(at + 1) {
                        Some(Token::Number(_)) => self.0[..at].iter().any(|t| matches!(t, Token::Number(_))),
                        Some(Token::Word(next)) => next == "luc",
                        _ => false,
                    },
                    _ => false,
                },
                _ => false,
            };
            if is_split && at > 0 && at + 1 < self.0.len() {
                let (left, right) = (self.0[..at].to_vec(), self.0[at + 1..].to_vec());
                return Some((Self(left), Self(right)));
            }
        }
        None
    }

    /// Takes a date out: "20/11", "20/11/2026", "20 tháng 11", "20 Nov 2026". Without a year it is the latest that is
    /// not to come. `Err`: there is no such day.
    pub fn take_date(&mut self, today: Date) -> Option<Result<Date, ()>> {
        for at in 0..self.0.len() {
            let Some((length, day, month, year)) = self.date_at(at) else { continue };
            self.0.drain(at..at + length);
            return Some(calendar_day(day, month, year, today).ok_or(()));
        }
        None
    }

    /// Length, day, month and year of the date that begins at a token.
    fn date_at(&self, at: usize) -> Option<(usize, i64, i64, Option<Number>)> {
        use Token::{Number as N, Symbol, Word};
        let month_of = |word: &str| {
            let short = word.get(..3)?;
            MONTHS
                .iter()
                .position(|m| *m == short)
                .map(|m| m as i64 + 1)
                .filter(|_| word.len() == 3 || word.len() > 4 || word == "june" || word == "july")
        };
        let is_year = |n: &Number| n.digits == 4;
        match &self.0[at..] {
            [N(d), Symbol(a @ ('/' | '.')), N(m), Symbol(b), N(y), ..]
                if a == b && d.digits <= 2 && m.digits <= 2 && (y.digits == 4 || y.digits == 2) =>
            {
                Some((5, d.value, m.value, Some(*y)))
            }
            [N(d), Symbol('/'), N(m), ..] if d.digits <= 2 && m.digits <= 2 => {
                Some((3, d.value, m.value, None))
            }
            // "8.30" is a clock; "20.11" can only be a day.
            [N(d), Symbol('.'), N(m), rest @ ..]
                if d.value > 12
                    && (1..=12).contains(&m.value)
                    && m.digits == 2
                    && d.value > 24
                    && rest.is_empty() =>
            {
                Some((3, d.value, m.value, None))
            }
            [N(d), Word(w), N(m), Word(nam), N(y), ..] if w == "thang" && nam == "nam" && is_year(y) => {
                Some((5, d.value, m.value, Some(*y)))
            }
            [N(d), Word(w), N(m), Symbol('/'), N(y), ..] if w == "thang" && is_year(y) => {
                Some((5, d.value, m.value, Some(*y)))
            }
            [N(d), Word(w), N(m), ..] if w == "thang" => Some((3, d.value, m.value, None)),
            [N(d), Word(w), N(y), ..] if month_of(w).is_some() && is_year(y) => {
                Some((3, d.value, month_of(w)?, Some(*y)))
            }
            [N(d), Word(w), ..] if month_of(w).is_some() => Some((2, d.value, month_of(w)?, None)),
            [Word(w), N(d), Symbol(','), N(y), ..] if month_of(w).is_some() && is_year(y) => {
                Some((4, d.value, month_of(w)?, Some(*y)))
            }
            [Word(w), N(d), ..] if month_of(w).is_some() && d.digits <= 2 => {
                Some((2, d.value, month_of(w)?, None))
            }
            _ => None,
        }
    }

    /// A range of days, "10/11 - 15/11", taken out.
    pub fn take_dates(&mut self, today: Date) -> Option<(Date, Date)> {
        for at in 0..self.0.len() {
            let Some((length, day, month, year)) = self.date_at(at) else { continue };
            let to = at + length;
            let is_to = match self.0.get(to) {
                Some(Token::Symbol('-')) => true,
                Some(Token::Word(word)) => matches!(word.as_str(), "den" | "toi" | "to" | "until"),
                _ => false,
            };
            if !is_to {
                continue;
            }
            let mut second = to + 1;
            if matches!(self.0.get(second), Some(Token::Word(w)) if w == "ngay") {
                second += 1;
            }
            if second >= self.0.len() {
                continue;
            }
            let Some((length, day_2, month_2, year_2)) = self.date_at(second) else { continue };
            let last = calendar_day(day_2, month_2, year_2, today)?;
            let first = calendar_day(day, month, year.or(year_2), today)?;
            self.0.drain(at..second + length);
            return Some((first, last));
        }
        None
    }

    /// 2026-11-20 as 20/11/2026: its dashes mean no range.
    fn turn_iso_dates(&mut self) {
        use Token::{Number as N, Symbol};
        for at in 0..self.0.len().saturating_sub(4) {
            if let [N(y), Symbol('-'), N(m), Symbol('-'), N(d)] = &self.0[at..at + 5]
                && y.digits == 4
                && m.digits <= 2
                && d.digits <= 2
            {
                let (y, m, d) = (*y, *m, *d);
                let turned = [N(d), Symbol('/'), N(m), Symbol('/'), N(y)];
                self.0.splice(at..at + 5, turned);
                // "2026-11-20T21:00"
                if matches!(self.0.get(at + 5), Some(Token::Word(t)) if t == "t") {
                    self.0.remove(at + 5);
                }
            }
        }
    }
}

/// "tới" with its mark becomes "đến": they mean the same.
fn mark_until(text: &str) -> String {
    use unicode_normalization::UnicodeNormalization;
    let composed: String = text.nfc().collect::<String>().to_lowercase();
    let words: Vec<&str> = composed.split(' ').map(|word| if word == "tới" { "đến" } else { word }).collect();
    words.join(" ")
}

fn calendar_day(day: i64, month: i64, year: Option<Number>, today: Date) -> Option<Date> {
    let make = |year: i64| {
        let (year, month, day) =
            (i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?);
        Date::new(year, month, day).ok()
    };
    match year {
        Some(n) if n.digits == 2 => make(2000 + n.value),
        Some(n) => make(n.value),
        None => {
            let this = i64::from(today.year());
            // 29/2 may be a day of an earlier year only.
            make(this).filter(|date| *date <= today).or_else(|| make(this - 1)).or_else(|| make(this))
        }
    }
}
