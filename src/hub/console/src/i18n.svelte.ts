// Owns the language: the catalogue, the choice and its memory, and words for lengths and clocks.
import type { Clock } from './api';
import en from './i18n/en.json';
import type fleetVi from './i18n/fleet.vi.json';
import vi from './i18n/vi.json';
import { daysAgo, durationParts, formatDate, formatRange, windowsOf, type Range, type Weekday } from './time';

/** The technicians' words come with their pages. */
export type Key = keyof typeof vi | keyof typeof fleetVi;
export type Language = 'vi' | 'en';

const CATALOGUE: Record<Language, Partial<Record<Key, string>>> = { vi: { ...vi }, en: { ...en } };
const MEMORY = 'camnet.lang';

class Locale {
  current = $state<Language>('vi');
}
const locale = new Locale();

export const language = () => locale.current;

/** Adds the words of pages that are loaded later, before they are shown. */
export function addWords(words: Record<Language, Partial<Record<Key, string>>>): void {
  Object.assign(CATALOGUE.vi, words.vi);
  Object.assign(CATALOGUE.en, words.en);
}

export function setLanguage(lang: Language): void {
  locale.current = lang;
  document.documentElement.lang = lang;
  localStorage.setItem(MEMORY, lang);
}

/** ?lang= wins over memory; Vietnamese is the default. */
export function chooseLanguage(asked: string | null): void {
  const remembered = localStorage.getItem(MEMORY);
  setLanguage(asked === 'en' || asked === 'vi' ? asked : remembered === 'en' ? 'en' : 'vi');
}

/** The catalogue's words for a key, with `{name}` filled in. */
export function t(key: Key, values: Record<string, string | number> = {}): string {
  return (CATALOGUE[locale.current][key] ?? key).replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}

export function duration(ms: number): string {
  return durationParts(ms)
    .map(([unit, n]) => t(`unit.${unit}`, { n }))
    .join(' ');
}

/** 0,18 s in Vietnamese, 0.18 s in English; 3 ms where seconds would say nothing. */
export function seconds(ms: number): string {
  if (Math.abs(ms) < 10) return `${number(ms)} ms`;
  const digits = Math.abs(ms) < 1000 ? 2 : 1;
  return `${number(ms / 1000, digits)} s`;
}

export function number(value: number, digits = 0): string {
  return new Intl.NumberFormat(locale.current === 'vi' ? 'vi-VN' : 'en-GB', { maximumFractionDigits: digits }).format(value);
}

export function size(bytes: number): string {
  return bytes < 1e6 ? `${number(bytes / 1e3)} kB` : `${number(bytes / 1e6, 1)} MB`;
}

export function weekday(at: Date): string {
  const tag = locale.current === 'vi' ? 'vi-VN' : 'en-GB';
  return new Intl.DateTimeFormat(tag, { weekday: 'long', timeZone: 'Asia/Ho_Chi_Minh' }).format(at).toLowerCase();
}

/** "hôm qua, 20/11/2026 21:00 – 23:00": what a range means, in words. */
export function rangeWords(range: Range, now: Date): string {
  if (range.hours || range.weekdays?.length) return repeatedWords(range);
  const ago = daysAgo(range.from, now);
  const day = ago === 0 ? t('time.today') : ago === 1 ? t('time.yesterday') : weekday(range.from);
  return `${day}, ${formatRange(range.from, range.to)}`;
}

/** "mỗi ngày 22:00–04:00, từ 09/11/2026 đến 15/11/2026 (7 khoảng)". */
function repeatedWords(range: Range): string {
  const all = windowsOf(range);
  const [first, last] = [all[0]?.from ?? range.from, all[all.length - 1]?.from ?? range.to];
  const days = range.weekdays?.length ? range.weekdays.map(dayName).join(', ') : t('time.every_day');
  const hours = range.hours ? range.hours.replace('-', '–') : t('time.whole_day');
  return t('time.repeated', { days, hours, from: formatDate(first), to: formatDate(last), n: all.length });
}
/** The name of a day of the week; 2026-11-01 was a Sunday. */
const dayName = (day: Weekday) => weekday(new Date(Date.UTC(2026, 10, 1 + ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'].indexOf(day), 5)));

export function clockWords(clock: Clock): string {
  const source = t(clock.source === 'camera' ? 'clip.source_camera' : 'clip.source_box');
  const words =
    clock.sync === 'unsynced'
      ? t('clip.clock_unsynced', { source })
      : clock.sync === 'unknown'
        ? t('clip.clock_unknown', { source })
        : clock.uncertainty_ms !== undefined
          ? t('clip.clock_synced', { source, value: seconds(clock.uncertainty_ms) })
          : t('clip.clock_synced_plain', { source });
  return clock.offset_ms ? `${words} · ${t('clip.clock_offset', { value: seconds(clock.offset_ms) })}` : words;
}
