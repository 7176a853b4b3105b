// Tests of the time field: what an officer types, and the span it must mean.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { durationParts, formatDateTime, formatRange, formatUtc, fromLocalInput, parseTime, ticks, toLocalInput, windowsOf } from '../src/time';

// Saturday 21/11/2026 02:10 in Vietnam; and the same day at 23:30.
const NIGHT = new Date('2026-11-20T19:10:00Z');
const LATE = new Date('2026-11-21T16:30:00Z');

const local = (at: Date) => formatDateTime(at).replace('2026 ', ' ').slice(0, -3).replace('/ ', ' ');

function check(now: Date, text: string, expected: string) {
  const answer = parseTime(text, now);
  const got = answer.ok ? `${local(answer.range.from)} > ${local(answer.range.to)}${answer.range.last_s ? ` last ${answer.range.last_s}` : ''}` : answer.problem;
  assert.equal(got, expected, `"${text}"`);
}

test('spans as people type them at night', () => {
  const table: [string, string][] = [
    ['tối qua 21-23h', '20/11 21:00 > 20/11 23:00'],
    ['tối qua 21–23h', '20/11 21:00 > 20/11 23:00'],
    ['toi qua 9h-11h', '20/11 21:00 > 20/11 23:00'],
    ['tối hôm qua từ 9h đến 11h', '20/11 21:00 > 20/11 23:00'],
    ['tối qua 11h-1h', '20/11 23:00 > 21/11 01:00'],
    ['21-23h', '20/11 21:00 > 20/11 23:00'],
    ['hôm qua 21:00 đến 23:00', '20/11 21:00 > 20/11 23:00'],
    ['yesterday 21-23', '20/11 21:00 > 20/11 23:00'],
    ['yesterday 9-11 pm', '20/11 21:00 > 20/11 23:00'],
    ['yesterday 9pm to 11pm', '20/11 21:00 > 20/11 23:00'],
    ['đêm qua', '20/11 22:00 > 21/11 05:00'],
    ['đêm qua 1h-2h', '21/11 01:00 > 21/11 02:00'],
    ['đêm qua 23h-2h', '20/11 23:00 > 21/11 02:00'],
    ['tối qua', '20/11 18:00 > 20/11 23:00'],
    ['hôm qua', '20/11 00:00 > 21/11 00:00'],
    ['hôm kia 8h-9h', '19/11 08:00 > 19/11 09:00'],
    ['thứ năm 8h-10h', '19/11 08:00 > 19/11 10:00'],
    ['22:15 ± 20p', '20/11 21:55 > 20/11 22:35'],
    ['22:15 +- 20 phút', '20/11 21:55 > 20/11 22:35'],
    ['tối qua 22h15 ± 5', '20/11 22:10 > 20/11 22:20'],
    ['22h15', '20/11 22:05 > 20/11 22:25'],
    ['lúc 1 giờ 30', '21/11 01:20 > 21/11 01:40'],
    ['1h-2h', '21/11 01:00 > 21/11 02:00'],
    ['23h - 1h30', '20/11 23:00 > 21/11 01:30'],
    ['từ 23h', '20/11 23:00 > 21/11 02:10'],
    ['từ 23h đến nay', '20/11 23:00 > 21/11 02:10'],
  ];
  for (const [text, expected] of table) check(NIGHT, text, expected);
});

test('spans as people type them in the evening', () => {
  const table: [string, string][] = [
    ['hôm nay 8h-10h', '21/11 08:00 > 21/11 10:00'],
    ['today 8-10', '21/11 08:00 > 21/11 10:00'],
    ['21/11 20h-22h', '21/11 20:00 > 21/11 22:00'],
    ['21/11/2026 20:10 - 20:40', '21/11 20:10 > 21/11 20:40'],
    ['ngày 21/11 từ 20h10 tới 20h40', '21/11 20:10 > 21/11 20:40'],
    ['20h-22h ngày 20/11', '20/11 20:00 > 20/11 22:00'],
    ['20/11 22h - 21/11 2h', '20/11 22:00 > 21/11 02:00'],
    ['2026-11-20 21:00 - 23:00', '20/11 21:00 > 20/11 23:00'],
    ['21/11', '21/11 00:00 > 22/11 00:00'],
    ['sáng nay', '21/11 05:00 > 21/11 11:00'],
    ['sáng nay 7h-8h30', '21/11 07:00 > 21/11 08:30'],
    ['chiều nay 2h-4h', '21/11 14:00 > 21/11 16:00'],
    ['9h tối - 11h tối', '21/11 21:00 > 21/11 23:00'],
    ['9h-11h tối', '21/11 21:00 > 21/11 23:00'],
    ['this morning 7-8', '21/11 07:00 > 21/11 08:00'],
  ];
  for (const [text, expected] of table) check(LATE, text, expected);
});

test('the last minutes and hours move with the clock', () => {
  for (const text of ['15 phút qua', '15p qua', '15 phut vua qua', 'last 15 min', 'past 15 minutes'])
    check(LATE, text, '21/11 23:15 > 21/11 23:30 last 900');
  for (const text of ['1 giờ qua', '1h qua', 'last hour', 'last 1 h']) check(LATE, text, '21/11 22:30 > 21/11 23:30 last 3600');
  check(LATE, 'nửa giờ qua', '21/11 23:00 > 21/11 23:30 last 1800');
  check(LATE, '1h30 qua', '21/11 22:00 > 21/11 23:30 last 5400');
});

test('what is not a time is refused with a reason', () => {
  check(LATE, '', 'empty');
  check(LATE, '   ', 'empty');
  for (const text of ['14 Nguyễn Trãi', 'abc', '25h-26h', '31/2 8h-9h', '99', '8h - abc']) check(LATE, text, 'not_understood');
  check(LATE, 'hôm nay 23:45 - 23:50', 'future');
  check(LATE, '21/11/2026 22:00 - 20/11/2026 21:00', 'backwards');
});

test('decomposed letters mean the same', () => {
  check(NIGHT, 'tối qua 21-23h'.normalize('NFD'), '20/11 21:00 > 20/11 23:00');
});

test('times are written as Vietnamese people write them', () => {
  const at = new Date('2026-11-20T15:15:07Z');
  assert.equal(formatDateTime(at), '20/11/2026 22:15:07');
  assert.equal(formatUtc(at), '2026-11-20 15:15:07Z');
  assert.equal(formatRange(new Date('2026-11-20T14:00:00Z'), new Date('2026-11-20T16:00:00Z')), '20/11/2026 21:00 – 23:00');
  assert.equal(formatRange(new Date('2026-11-20T16:00:00Z'), new Date('2026-11-20T18:00:00Z')), '20/11/2026 23:00 – 21/11/2026 01:00');
  assert.equal(formatRange(new Date('2026-11-19T17:00:00Z'), new Date('2026-11-20T17:00:00Z')), '20/11/2026 00:00 – 24:00');
  assert.deepEqual(durationParts(3_725_000), [['h', 1], ['min', 2]]);
  assert.equal(toLocalInput(at), '2026-11-20T22:15');
  assert.equal(fromLocalInput('2026-11-20T22:15')?.toISOString(), '2026-11-20T15:15:00.000Z');
});

test('axis times are round and few', () => {
  const all = ticks(new Date('2026-11-20T14:03:00Z'), new Date('2026-11-20T16:00:00Z'), 8).map((t) => formatDateTime(t).slice(11, 16));
  assert.deepEqual(all, ['21:15', '21:30', '21:45', '22:00', '22:15', '22:30', '22:45', '23:00']);
});

test('the same hours of several days', () => {
  const windows = (text: string, now: Date) => {
    const answer = parseTime(text, now);
    return answer.ok ? windowsOf(answer.range).map((w) => `${local(w.from)} > ${local(w.to)}`) : [answer.problem];
  };
  // Friday night is asked about on Saturday: last week is 9 to 15 November.
  for (const text of ['mỗi đêm 22–04h tuần trước', 'each night 22-04 last week', 'tuần trước mỗi đêm 22h-4h']) {
    const all = windows(text, LATE);
    assert.equal(all.length, 7, text);
    assert.equal(all[0], '09/11 22:00 > 10/11 04:00');
    assert.equal(all[6], '15/11 22:00 > 16/11 04:00');
  }
  assert.deepEqual(windows('mỗi tối thứ bảy 19h-21h 2 tuần qua', LATE), ['07/11 19:00 > 07/11 21:00', '14/11 19:00 > 14/11 21:00']);
  assert.deepEqual(windows('every evening 9-11pm 19/11 - 20/11', LATE), ['19/11 21:00 > 19/11 23:00', '20/11 21:00 > 20/11 23:00']);
  assert.deepEqual(windows('mỗi ngày 8h-9h', NIGHT).length, 7);
  assert.deepEqual(windows('tối qua 21-23h', NIGHT), ['20/11 21:00 > 20/11 23:00']);
});

test('weeks begin on Monday', () => {
  check(LATE, 'tuần trước', '09/11 00:00 > 16/11 00:00');
  check(LATE, 'last week', '09/11 00:00 > 16/11 00:00');
  check(LATE, 'thứ 2 tuần trước', '09/11 00:00 > 10/11 00:00');
  check(LATE, 'last monday 8-10h', '16/11 08:00 > 16/11 10:00');
  check(LATE, 'tháng trước', '01/10 00:00 > 01/11 00:00');
  check(LATE, 'last night', '20/11 22:00 > 21/11 05:00');
});
