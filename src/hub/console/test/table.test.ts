// Runs the table of time expressions that the hub's own reader is tested by (tests/data/time-expressions.json):
// what one of the two understands, the other must not understand differently.
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseTime, windowsOf } from '../src/time';

interface Row {
  text: string;
  now: string;
  windows?: { from: string; to: string }[];
  error?: string;
}
const file = join(process.cwd(), '../../../tests/data/time-expressions.json');

test('the hub and the page read the same words alike', { skip: !existsSync(file) }, () => {
  const wrong: string[] = [];
  const short = (at: Date | string) => new Date(at).toISOString().slice(0, 19);
  for (const row of JSON.parse(readFileSync(file, 'utf8')) as Row[]) {
    const answer = parseTime(row.text, new Date(row.now));
    const got = answer.ok ? windowsOf(answer.range).map((w) => `${short(w.from)}/${short(w.to)}`).join(' ') : 'error';
    const expected = row.windows ? row.windows.map((w) => `${short(w.from)}/${short(w.to)}`).join(' ') : 'error';
    if (got !== expected) wrong.push(`"${row.text}" at ${row.now}: got ${got}${answer.ok ? '' : ` (${answer.problem})`}, table ${expected}`);
  }
  assert.deepEqual(wrong, []);
});
