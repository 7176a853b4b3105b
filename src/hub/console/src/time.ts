// Owns what an officer may type into the time field and how times are written.
// Pure: the present is an argument. One zone for everybody, Asia/Ho_Chi_Minh (UTC+7, no summer time).

export const ZONE_OFFSET_MS = 7 * 3600_000;
export const DAY_MS = 24 * 3600_000;
const MINUTE_MS = 60_000;
const HOUR_MS = 3600_000;

/**
 * A span of time somebody asked for; `last_s` when it is "the last N seconds" and moves with the clock.
 * `hours` ("22:00-04:00", civil) and `weekdays` cut it into the same hours of each day.
 */
export interface Range {
  from: Date;
  to: Date;
  last_s?: number;
  hours?: string;
  weekdays?: Weekday[];
}
export const WEEKDAY_NAMES = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'] as const;
export type Weekday = (typeof WEEKDAY_NAMES)[number];

export type TimeProblem = 'empty' | 'not_understood' | 'backwards' | 'future';
export type TimeAnswer = { ok: true; range: Range } | { ok: false; problem: TimeProblem };

/** Half the width of a span around a single moment ("22:15", "khoảng 22:15"). */
const AROUND_MS = 10 * MINUTE_MS;

// ---------- reading ----------

/** Lower case, no accents, đ = d, one kind of dash: what both languages are matched in. */
export function fold(text: string): string {
  return text
    .normalize('NFD')
    .replace(/\p{M}/gu, '')
    .toLowerCase()
    .replace(/đ/g, 'd')
    .replace(/[–—−]/g, '-')
    .replace(/\s+/g, ' ')
    .trim();
}

/** Understands one line of text as a range of time, or says why not. */
export function parseTime(text: string, now: Date): TimeAnswer {
  const asked = plainWords(fold(text));
  if (!asked) return { ok: false, problem: 'empty' };
  return parseLast(asked, now) ?? parseRepeated(asked, now) ?? parsePeriod(asked, now) ?? parseSpan(asked, now) ?? { ok: false, problem: 'not_understood' };
}

/** Bounds that are the same for every reader of the table: a repeated question without a period means these days. */
const REPEATED_DAYS = 7;
/** The hub answers at most so long a span at once. */
const PERIOD = /\b(?:trong )?(tuan truoc|tuan qua|tuan roi|last week|tuan nay|this week|thang truoc|thang qua|last month|thang nay|this month|(?:(?:trong )?(\d+) (ngay|dem|tuan|days?|nights?|weeks?) (?:qua|vua qua|gan day))|(?:(?:last|past) (\d+) (days?|nights?|weeks?)))\b/;

/** "tuần trước" as days: Monday to Monday; what is still to come ends now. */
function periodDays(words: RegExpExecArray, now: Date): { from: number; to: number } {
  const today = dayStart(now);
  const here = new Date(today + ZONE_OFFSET_MS);
  const monday = today - ((here.getUTCDay() + 6) % 7) * DAY_MS;
  const month = (offset: number) => Date.UTC(here.getUTCFullYear(), here.getUTCMonth() + offset, 1) - ZONE_OFFSET_MS;
  const count = Number(words[2] ?? words[4] ?? 0);
  if (count) {
    const days = /^(tuan|week)/.test(words[3] ?? words[5] ?? '') ? count * 7 : count;
    return { from: today - days * DAY_MS, to: today };
  }
  if (/^(tuan nay|this week)/.test(words[1])) return { from: monday, to: now.getTime() };
  if (/^(thang nay|this month)/.test(words[1])) return { from: month(0), to: now.getTime() };
  if (/^(thang|last month)/.test(words[1])) return { from: month(-1), to: month(0) };
  return { from: monday - 7 * DAY_MS, to: monday };
}

/** "tuần trước", "last month": whole days. "3 ngày qua" is a length and was read before. */
function parsePeriod(asked: string, now: Date): TimeAnswer | undefined {
  const words = PERIOD.exec(asked);
  if (!words || words[0].length !== asked.length) return undefined;
  const { from, to } = periodDays(words, now);
  return { ok: true, range: { from: new Date(from), to: new Date(to) } };
}

/** "mỗi đêm 22–04h tuần trước", "each night 22-04 last week", "mỗi tối thứ bảy 19h-21h tháng này". */
function parseRepeated(asked: string, now: Date): TimeAnswer | undefined {
  const every = /\b(?:moi|hang|cac|each|every)\b(?: (dem|toi|sang|trua|chieu|ngay|buoi|night|evening|morning|noon|afternoon|day))?/.exec(asked);
  if (!every) return undefined;
  let rest = asked.replace(every[0], ' ');
  let part = every[1] ? PARTS.find(([word]) => word.test(every[1]))?.[1] : undefined;
  const words = PERIOD.exec(rest);
  if (words) rest = rest.replace(words[0], ' ');
  const today = dayStart(now);
  let days = words ? periodDays(words, now) : { from: today - REPEATED_DAYS * DAY_MS, to: today };
  const dates = /\b(?:tu|from)? ?(\d{1,2})\/(\d{1,2})(?:\/(\d{4}))? ?(?:-|den|toi|to|until) ?(\d{1,2})\/(\d{1,2})(?:\/(\d{4}))?/.exec(rest);
  if (dates) {
    const first = calendarDay(Number(dates[1]), Number(dates[2]), dates[3] ?? dates[6], now);
    const last = calendarDay(Number(dates[4]), Number(dates[5]), dates[6], now);
    if (first === undefined || last === undefined) return undefined;
    if (last < first) return { ok: false, problem: 'backwards' };
    days = { from: first, to: last + DAY_MS };
    rest = rest.replace(dates[0], ' ');
  }
  const weekdays = takeWeekdays(rest);
  rest = weekdays.rest;
  for (const [word, name] of PARTS) if (!part && word.test(rest)) [part, rest] = [name, rest.replace(word, ' ')];
  rest = rest.replace(/\b(luc|tu|from|at|between|vao|of|in|the|trong|ngay|days?)\b/g, ' ').replace(/[,;]/g, ' ').replace(/\s+/g, ' ').trim();
  const hours = rest ? clockSpan(rest, part) : part ? PART_HOURS[part].map((h) => h * HOUR_MS) : [0, DAY_MS];
  if (!hours) return undefined;
  // A night belongs to the day it begins on, its small hours to the morning after.
  const small = part === 'dem' && hours[0] < 6 * HOUR_MS && hours[1] < DAY_MS ? DAY_MS : 0;
  const [a, b] = hours.map((h) => h + small);
  const whole = b - a >= DAY_MS;
  const last = dayStart(new Date(days.to + DAY_MS - 1)) - DAY_MS;
  const range: Range = { from: new Date(days.from + (whole ? 0 : a)), to: new Date(whole ? days.to : last + b) };
  if (!whole) range.hours = `${hourWords(a % DAY_MS)}-${hourWords(b % DAY_MS)}`;
  if (weekdays.days.length) range.weekdays = weekdays.days;
  if (range.from >= range.to) return { ok: false, problem: 'future' };
  return { ok: true, range };
}

const hourWords = (ms: number) => {
  const minutes = Math.round(ms / MINUTE_MS) % (24 * 60);
  return `${String(Math.floor(minutes / 60)).padStart(2, '0')}:${String(minutes % 60).padStart(2, '0')}`;
};

/** "22-04h", "10 pm - 4 am": two clock times, the second after the first. */
function clockSpan(text: string, part?: Part): [number, number] | undefined {
  const [left, right] = splitRange(text);
  if (right === undefined) return undefined;
  const clock = (words: string) => parseClock(/^\d{1,2}$/.test(words) ? `${words}h` : words, part);
  const [first, second] = [clock(left), clock(right)];
  if (!first || !second) return undefined;
  const a = shift(first, part) % DAY_MS;
  let b = shift(second, part) % DAY_MS;
  if (b <= a) b += DAY_MS;
  return [a, b];
}

/** "thứ bảy, chủ nhật", "cuối tuần", "weekdays": the days that are meant, Monday first. */
function takeWeekdays(text: string): { days: Weekday[]; rest: string } {
  let rest = text;
  const days = new Set<number>();
  const take = (word: RegExp, meant: number[]) => {
    if (!word.test(rest)) return;
    rest = rest.replace(word, ' ');
    for (const day of meant) days.add(day);
  };
  take(/\b(cuoi tuan|weekends?)\b/, [6, 0]);
  take(/\b(ngay thuong|trong tuan|weekdays?)\b/, [1, 2, 3, 4, 5]);
  for (const [word, day] of WEEKDAYS) take(word, [day]);
  return { days: [...days].sort((a, b) => ((a + 6) % 7) - ((b + 6) % 7)).map((d) => WEEKDAY_NAMES[d]), rest };
}

/** The windows that a range means: itself, or its hours of each chosen day. Night belongs to the day it begins on. */
export function windowsOf(range: Range): { from: Date; to: Date }[] {
  if (!range.hours && !range.weekdays?.length) return [{ from: range.from, to: range.to }];
  const m = /^(\d\d):(\d\d)-(\d\d):(\d\d)$/.exec(range.hours ?? '00:00-00:00');
  if (!m) return [{ from: range.from, to: range.to }];
  const a = Number(m[1]) * HOUR_MS + Number(m[2]) * MINUTE_MS;
  let b = Number(m[3]) * HOUR_MS + Number(m[4]) * MINUTE_MS;
  if (b <= a) b += DAY_MS;
  const out: { from: Date; to: Date }[] = [];
  for (let day = dayStart(range.from) - DAY_MS; day < range.to.getTime(); day += DAY_MS) {
    const weekday = WEEKDAY_NAMES[new Date(day + ZONE_OFFSET_MS).getUTCDay()];
    if (range.weekdays?.length && !range.weekdays.includes(weekday)) continue;
    const from = Math.max(day + a, range.from.getTime());
    const to = Math.min(day + b, range.to.getTime());
    const last = out[out.length - 1];
    if (from >= to) continue;
    if (last && last.to.getTime() === from) last.to = new Date(to);
    else out.push({ from: new Date(from), to: new Date(to) });
  }
  return out;
}

const MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'];
const MONTH_NAMES = `(${MONTHS.join('|')})[a-z]*\\.?`;
const month = (name: string) => MONTHS.indexOf(name.slice(0, 3)) + 1;

/** Dates with named months as d/m/y, "9h rưỡi" as 9h30, "10 giờ kém 15" as 9h45. */
function plainWords(asked: string): string {
  const year = (y?: string) => (y ? `/${y}` : '');
  return asked
    .replace(/\b(\d{1,2}) thang (\d{1,2})(?:(?: nam|,)? (\d{4}))?\b/g, (_, d, m, y) => `${d}/${m}${year(y)}`)
    .replace(new RegExp(`\\b(\\d{1,2})(?:st|nd|rd|th)? ${MONTH_NAMES}(?:,? (\\d{4}))?\\b`, 'g'), (_, d, m, y) => `${d}/${month(m)}${year(y)}`)
    .replace(new RegExp(`\\b${MONTH_NAMES} (\\d{1,2})(?:st|nd|rd|th)?(?:,? (\\d{4}))?(?![\\d:])\\b`, 'g'), (_, m, d, y) => `${d}/${month(m)}${year(y)}`)
    .replace(/\b(\d{1,2}) ?(?:h|g|gio) ?ruoi\b/g, '$1h30')
    .replace(/\b(\d{1,2}) ?(?:h|g|gio) ?kem (\d{1,2})(?: ?(?:p|ph|phut))?\b/g, (_, h, m) => `${(Number(h) + 23) % 24}h${60 - Number(m)}`);
}

const UNIT_MS: [RegExp, number][] = [
  [/^(s|giay|sec|secs|seconds?)$/, 1000],
  [/^(p|ph|phut|m|min|mins|minutes?)$/, MINUTE_MS],
  [/^(h|g|gio|tieng|hours?|hrs?)$/, HOUR_MS],
  [/^(d|ngay|days?)$/, DAY_MS],
];

/** "15 phút qua", "1h30 qua", "nửa giờ qua", "last 15 min", "last hour". */
function parseLast(asked: string, now: Date): TimeAnswer | undefined {
  const tail = / (vua qua|qua|gan day|truoc|vua roi|ago)$/;
  const head = /^(trong vong|trong|last|past|qua) /;
  if (!tail.test(asked) && !head.test(asked)) return undefined;
  const body = asked.replace(tail, '').replace(head, '').replace(tail, '').replace(/^nua /, '0.5 ');
  let ms: number | undefined;
  const both = /^(\d+) ?(?:h|gio|g) ?(\d+) ?(?:p|ph|phut|m|min)?$/.exec(body);
  const one = /^(\d+(?:[.,]\d+)?)? ?([a-z]+)$/.exec(body);
  if (both) ms = Number(both[1]) * HOUR_MS + Number(both[2]) * MINUTE_MS;
  else if (one) {
    const unit = UNIT_MS.find(([word]) => word.test(one[2]));
    if (unit) ms = Number((one[1] ?? '1').replace(',', '.')) * unit[1];
  }
  if (!ms) return undefined;
  return { ok: true, range: lastRange(Math.round(ms / 1000), now) };
}

export function lastRange(last_s: number, now: Date): Range {
  return { from: new Date(now.getTime() - last_s * 1000), to: now, last_s };
}

type Part = 'rang' | 'sang' | 'trua' | 'chieu' | 'toi' | 'dem';
const PART_HOURS: Record<Part, [number, number]> = {
  rang: [0, 6],
  sang: [5, 11],
  trua: [11, 14],
  chieu: [13, 18],
  toi: [18, 23],
  dem: [22, 29],
};

interface Day {
  /** Midnight in Vietnam, as UTC ms. */
  start: number;
  part?: Part;
  /** Somebody named it; otherwise today was assumed. */
  named: boolean;
}

interface Clock {
  ms: number;
  /** The hour was written with am/pm or 13 or more, so no part of the day may shift it. */
  sure: boolean;
}

/** A day, a part of a day, clock times, or a mixture. */
function parseSpan(asked: string, now: Date): TimeAnswer | undefined {
  const around = /^(.+?)\s*(?:±|\+\/?-|khoang|around)\s*(\d+)\s*([a-z]*)$/.exec(asked);
  if (around) {
    const unit = around[3] === '' ? MINUTE_MS : UNIT_MS.find(([word]) => word.test(around[3]))?.[1];
    if (!unit) return undefined;
    return parseMoment(around[1], now, Number(around[2]) * unit);
  }
  const [left, right] = splitRange(asked);
  if (right === undefined) return parseMoment(left, now, AROUND_MS);

  const first = takeDay(left.replace(/^(tu|from|between) /, ''), now);
  const second = takeDay(right, now);
  if (!first || !second) return undefined;
  if (second.day.part && !first.day.part) first.day.part = second.day.part;
  let a = parseClock(first.rest, first.day.part);
  let b = parseClock(second.rest, second.day.part ?? first.day.part);
  // "21-23h", "8-10 pm": the unit is written once, at the end.
  if (!a && /^\d{1,2}$/.test(first.rest)) a = parseClock(first.rest + 'h', first.day.part);
  if (!b && /^\d{1,2}$/.test(second.rest)) b = parseClock(second.rest + 'h', second.day.part ?? first.day.part);
  if (a && b && /pm$/.test(second.rest) && !/[ap]m$/.test(first.rest) && a.ms < 12 * HOUR_MS && b.ms > 12 * HOUR_MS) {
    if (a.ms + 12 * HOUR_MS < b.ms) a = { ms: a.ms + 12 * HOUR_MS, sure: true };
  }
  if (a && /^(nay|bay gio|gio|hien tai|now)$/.test(right)) {
    const from = shift(a, first.day.part);
    const start = !first.day.named && first.day.start + from > now.getTime() ? first.day.start - DAY_MS : first.day.start;
    return finish({ ...first.day, start }, from, now.getTime() - start, now, true);
  }
  const wordOnly = (rest: string) => rest === '';
  if (!a && wordOnly(first.rest) && first.day.named) a = { ms: 0, sure: true };
  if (!b && wordOnly(second.rest) && second.day.named) b = { ms: DAY_MS, sure: true };
  if (!a || !b) return undefined;

  const base: Day = second.day.named && !first.day.named ? { ...first.day, start: second.day.start, named: true } : first.day;
  const from = shift(a, base.part);
  let to: number;
  if (second.day.named && first.day.named) {
    to = second.day.start - first.day.start + shift(b, second.day.part);
  } else {
    to = shift(b, base.part);
    if (to <= from) to += DAY_MS;
    if (base.part === 'dem' && from >= DAY_MS && to - from > DAY_MS) to -= DAY_MS;
  }
  return finish(base, from, to, now, first.day.named && second.day.named);
}

/** A single moment with some time on both sides, or a whole day or part of one. */
function parseMoment(text: string, now: Date, aroundMs: number): TimeAnswer | undefined {
  const openEnd = /^(tu|from|since|sau) /.test(text);
  const taken = takeDay(text.replace(/^(luc|vao luc|vao|khoang|around|about|at|tu|from|since|sau) /, ''), now);
  if (!taken) return undefined;
  const { day, rest } = taken;
  if (rest === '') {
    if (!day.named) return undefined;
    const [from, to] = day.part ? PART_HOURS[day.part] : [0, 24];
    return finish(day, from * HOUR_MS, to * HOUR_MS, now, true);
  }
  const clock = parseClock(rest, day.part);
  if (!clock) return undefined;
  const at = shift(clock, day.part);
  if (openEnd) {
    const start = !day.named && day.start + at > now.getTime() ? day.start - DAY_MS : day.start;
    return finish({ ...day, start, named: true }, at, Math.min(now.getTime() - start, at + DAY_MS), now, true);
  }
  return finish(day, at - aroundMs, at + aroundMs, now, false);
}

/** Turns day + offsets into a range. Without a named day, a time still to come means yesterday's. */
function finish(day: Day, from: number, to: number, now: Date, exact: boolean): TimeAnswer {
  let start = day.start;
  if (!day.named && !exact && start + from > now.getTime()) start -= DAY_MS;
  if (to <= from) return { ok: false, problem: 'backwards' };
  if (start + from > now.getTime()) return { ok: false, problem: 'future' };
  return { ok: true, range: { from: new Date(start + from), to: new Date(start + to) } };
}

/** Moves a bare hour into the named part of the day: "tối 9h" is 21:00, "đêm 1h" the morning after. */
function shift(clock: Clock, part?: Part): number {
  if (part === 'dem' && clock.ms < 6 * HOUR_MS) return clock.ms + DAY_MS;
  if (clock.sure) return clock.ms;
  const hour = clock.ms / HOUR_MS;
  if (part === 'toi' || part === 'dem') {
    if (hour >= 12 && hour < 13) return clock.ms + 12 * HOUR_MS;
    return hour >= 5 && hour < 12 ? clock.ms + 12 * HOUR_MS : clock.ms;
  }
  if (part === 'chieu' && hour >= 1 && hour < 8) return clock.ms + 12 * HOUR_MS;
  if (part === 'trua' && hour >= 1 && hour < 4) return clock.ms + 12 * HOUR_MS;
  return clock.ms;
}

/** "8h", "8h30", "8 giờ 30", "8:30:15", "9pm", "9h tối". A bare number is no clock. */
function parseClock(text: string, part?: Part): Clock | undefined {
  const m = /^(\d{1,2})(?:(?: ?(?:h|g|gio) ?|[:.])(\d{1,2})?(?:[:.](\d{1,2}))?(?: ?(?:p|ph|phut))?)? ?(am|pm)?$/.exec(text);
  if (!m) return undefined;
  const [, h, min, s, half] = m;
  if (min === undefined && half === undefined && /^\d+$/.test(text) && part === undefined) return undefined;
  let hour = Number(h);
  if (half === 'pm' && hour < 12) hour += 12;
  if (half === 'am' && hour === 12) hour = 0;
  const minute = Number(min ?? 0);
  const second = Number(s ?? 0);
  if (hour > 24 || minute > 59 || second > 59) return undefined;
  return { ms: hour * HOUR_MS + minute * MINUTE_MS + second * 1000, sure: half !== undefined || hour >= 13 || (hour === 0) };
}

/** Splits at the dash or word that means "to", but not at the dashes of 2026-11-21. */
function splitRange(text: string): [string, string?] {
  const iso = text.replace(/\b(\d{4})-(\d{1,2})-(\d{1,2})\b/g, '$3/$2/$1');
  const m = /^(.+?)\s*(?:->|-|\bden\b|\btoi\b(?= \d| luc| hom)|\bto\b|\buntil\b|\band\b|\bva\b)\s*(.+)$/.exec(iso);
  // "tối 9h" also begins with the letters of "tới 9h": there must be a time before it.
  if (m && !/\d/.test(m[1]) && !takesDayOnly(m[1])) return [iso];
  return m ? [m[1].trim(), m[2].trim()] : [iso];
}

const takesDayOnly = (text: string) => /^(tu )?(hom|ngay|thu|chu nhat|yesterday|today)/.test(text) && !/(hom|thu)$/.test(text);

const WEEKDAYS: [RegExp, number][] = [
  [/\b(chu nhat|cn|sunday)\b/, 0],
  [/\b(thu hai|thu 2|monday)\b/, 1],
  [/\b(thu ba|thu 3|tuesday)\b/, 2],
  [/\b(thu tu|thu 4|wednesday)\b/, 3],
  [/\b(thu nam|thu 5|thursday)\b/, 4],
  [/\b(thu sau|thu 6|friday)\b/, 5],
  [/\b(thu bay|thu 7|saturday)\b/, 6],
];

const PARTS: [RegExp, Part][] = [
  [/\b(rang sang|early morning)\b/, 'rang'],
  [/\b(buoi )?(sang|morning)\b/, 'sang'],
  [/\b(buoi )?(trua|noon)\b/, 'trua'],
  [/\b(buoi )?(chieu|afternoon)\b/, 'chieu'],
  [/\b(buoi )?(toi|evening|tonight)\b/, 'toi'],
  [/\b(ban )?(dem|night)\b/, 'dem'],
];

/** Takes the words that name a day out of the text; what is left should be a clock time. */
function takeDay(text: string, now: Date): { day: Day; rest: string } | undefined {
  const today = dayStart(now);
  const day: Day = { start: today, named: false };
  let rest = ` ${text.replace(/\b(\d{4})-(\d{1,2})-(\d{1,2})\b/g, '$3/$2/$1')} `;
  const take = (pattern: RegExp): RegExpExecArray | null => {
    const m = pattern.exec(rest);
    if (m) rest = rest.slice(0, m.index) + ' ' + rest.slice(m.index + m[0].length);
    return m;
  };
  const name = (start: number) => {
    day.start = start;
    day.named = true;
  };

  const date = take(/\b(?:ngay |mung |on )?(\d{1,2})[/.](\d{1,2})(?:[/.](\d{4}|\d{2}))?(?![\d:])(?= |$|,)/);
  if (date) {
    const start = calendarDay(Number(date[1]), Number(date[2]), date[3], now);
    if (start === undefined) return undefined;
    name(start);
  }
  if (!date && take(/\b(hom kia|day before yesterday)\b/)) name(today - 2 * DAY_MS);
  for (const [word, part] of PARTS) if (!day.part && take(word)) day.part = part;
  if (!day.named) {
    if (take(/\b(hom qua|yesterday|(?<!tuan )qua)\b/) || (/\blast (night|evening|afternoon|morning)\b/.test(text) && take(/\blast\b/))) name(today - DAY_MS);
    else if (take(/\b(hom nay|today|nay|this)\b/)) name(today);
    else {
      for (const [word, weekday] of WEEKDAYS) {
        if (!take(word)) continue;
        const here = new Date(today + ZONE_OFFSET_MS).getUTCDay();
        const back = (here - weekday + 7) % 7;
        // Weeks begin on Monday: "thứ 2 tuần trước" is the Monday of the week before this one.
        if (take(/\b(tuan truoc|tuan roi|tuan qua|last week)\b/)) name(today - (((here + 6) % 7) + 7 - ((weekday + 6) % 7)) * DAY_MS);
        else if (take(/\b(tuan nay|this week)\b/)) name(today - (((here + 6) % 7) - ((weekday + 6) % 7)) * DAY_MS);
        else {
          take(/\b(truoc|roi|last)\b/);
          name(today - back * DAY_MS);
        }
        break;
      }
    }
  }
  if (/\btonight\b/.test(text)) name(today);
  // Night belongs to the day it began on; "đêm nay" said at 02:00 means the night one is in.
  if (day.part === 'dem' && day.named && day.start === today && now.getTime() - today < 6 * HOUR_MS) day.start -= DAY_MS;
  if (day.part && !day.named) day.named = /^\s*$/.test(rest);
  rest = rest.replace(/\b(luc|vao|ngay|at|from|tu|between|in|the)\b/g, ' ').replace(/[,;]/g, ' ').replace(/\s+/g, ' ').trim();
  return { day, rest };
}

function dayStart(at: Date): number {
  return Math.floor((at.getTime() + ZONE_OFFSET_MS) / DAY_MS) * DAY_MS - ZONE_OFFSET_MS;
}

/** Midnight of a date; without a year, the latest such date that is not to come. */
function calendarDay(day: number, month: number, year: string | undefined, now: Date): number | undefined {
  const here = new Date(now.getTime() + ZONE_OFFSET_MS).getUTCFullYear();
  const make = (y: number) => {
    const utc = Date.UTC(y, month - 1, day);
    const back = new Date(utc);
    return back.getUTCMonth() === month - 1 && back.getUTCDate() === day ? utc - ZONE_OFFSET_MS : undefined;
  };
  if (year) return make(year.length === 2 ? 2000 + Number(year) : Number(year));
  const start = make(here);
  return start !== undefined && start > now.getTime() ? make(here - 1) : start;
}

// ---------- writing ----------

const PARTS_FORMAT = new Intl.DateTimeFormat('en-GB', {
  timeZone: 'Asia/Ho_Chi_Minh',
  year: 'numeric',
  month: '2-digit',
  day: '2-digit',
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  hourCycle: 'h23',
});

function fields(at: Date): Record<string, string> {
  return Object.fromEntries(PARTS_FORMAT.formatToParts(at).map((p) => [p.type, p.value]));
}

/** 20/11/2026 */
export function formatDate(at: Date): string {
  const f = fields(at);
  return `${f.day}/${f.month}/${f.year}`;
}

/** 22:15:07, or 22:15 when there are no seconds to tell. */
export function formatClock(at: Date, seconds: boolean | 'auto' = true): string {
  const f = fields(at);
  const show = seconds === 'auto' ? at.getTime() % MINUTE_MS !== 0 : seconds;
  return show ? `${f.hour}:${f.minute}:${f.second}` : `${f.hour}:${f.minute}`;
}

/** 20/11/2026 22:15:07 */
export function formatDateTime(at: Date): string {
  return `${formatDate(at)} ${formatClock(at)}`;
}

/** 2026-11-20 15:15:07Z */
export function formatUtc(at: Date): string {
  return at.toISOString().slice(0, 19).replace('T', ' ') + 'Z';
}

/** 20/11/2026 21:00 – 23:00, or both dates when the day changes. */
export function formatRange(from: Date, to: Date): string {
  const seconds = from.getTime() % MINUTE_MS !== 0 || to.getTime() % MINUTE_MS !== 0;
  const sameDay = formatDate(from) === formatDate(to);
  const midnight = dayStart(to) === to.getTime() && to.getTime() - dayStart(from) === DAY_MS;
  const end = midnight ? '24:00' : formatClock(to, seconds);
  return sameDay || midnight
    ? `${formatDate(from)} ${formatClock(from, seconds)} – ${end}`
    : `${formatDate(from)} ${formatClock(from, seconds)} – ${formatDate(to)} ${end}`;
}

/** How many days before today a moment lies: 0 today, 1 yesterday. */
export function daysAgo(at: Date, now: Date): number {
  return Math.round((dayStart(now) - dayStart(at)) / DAY_MS);
}

/** A length in the units a person would say: [["h", 1], ["min", 20]]. At most two of them. */
export function durationParts(ms: number): [unit: 'd' | 'h' | 'min' | 's', count: number][] {
  let left = Math.max(0, Math.round(ms / 1000));
  const parts: [unit: 'd' | 'h' | 'min' | 's', count: number][] = [];
  for (const [unit, size] of [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]] as const) {
    const count = Math.floor(left / size);
    left -= count * size;
    if (count > 0) parts.push([unit, count]);
  }
  return parts.length ? parts.slice(0, 2) : [['s', 0]];
}

/** The value of a datetime-local input, in Vietnam's zone. */
export function toLocalInput(at: Date): string {
  return new Date(at.getTime() + ZONE_OFFSET_MS).toISOString().slice(0, 16);
}

export function fromLocalInput(value: string): Date | undefined {
  const ms = Date.parse(value + 'Z');
  return Number.isNaN(ms) ? undefined : new Date(ms - ZONE_OFFSET_MS);
}

/** Round times for an axis, at most `most` of them. */
export function ticks(from: Date, to: Date, most: number): Date[] {
  const span = to.getTime() - from.getTime();
  const steps = [1, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400].map((s) => s * 1000);
  const step = steps.find((s) => span / s <= most) ?? Math.ceil(span / most / DAY_MS) * DAY_MS;
  const first = Math.ceil((from.getTime() + ZONE_OFFSET_MS) / step) * step - ZONE_OFFSET_MS;
  const out: Date[] = [];
  for (let at = first; at <= to.getTime() && out.length <= most; at += step) out.push(new Date(at));
  return out;
}
