// Owns what the officer chose (place, time, cameras: also the page's address) and what the hub answered.
// Components read it and call its methods; only this file talks to the hub and to the history.
import {
  fetchClips,
  fetchLamps,
  fetchPlaces,
  fetchSession,
  HubError,
  type Clip,
  type Coverage,
  type Device,
  type LampEvent,
  type Places,
  type Point,
  type Question,
  type Session,
  type Span,
} from './api';
import { lastRange, type Range } from './time';

export type Place =
  | { kind: 'everywhere' }
  | { kind: 'circle'; point: Point; radius_m: number; name?: string }
  | { kind: 'area'; id: string };

export const RADII_M = [50, 100, 200, 500];
const DEFAULT_RADIUS_M = 200;
const DEFAULT_LAST_S = 3600;
const PAGE_CLIPS = 100;
/** Fetched without being asked, page by page; the rest waits for a button. */
const MOST_UNASKED_CLIPS = 500;
const MOST_CLIPS = 2000;
const POLL_MS = 5000;
const LAMP_POLL_MS = 20_000;
/** A search that takes longer than this says what it is waiting for. */
const SLOW_MS = 500;
const LINK_MARGIN_MS = 60_000;

/** How a camera did in the range asked for: a colour, a shape and a word each. */
export type CameraState = 'full' | 'partly' | 'none' | 'unreachable' | 'unasked';
export const STATE_SHAPE: Record<CameraState, string> = { full: '●', partly: '◐', none: '○', unreachable: '✕', unasked: '◇' };

export type LampState = 'lit' | 'dark' | 'fault' | 'unknown';

interface OpenLink {
  id: string;
  device: string;
  at: string;
}

class Console {
  session = $state.raw<Session>();
  places = $state.raw<Places>();
  placesProblem = $state.raw<HubError>();
  lampEvents = $state.raw<LampEvent[]>();
  now = $state.raw(new Date());

  place = $state.raw<Place>({ kind: 'everywhere' });
  range = $state.raw<Range>();
  devices = $state.raw<string[]>([]);
  order = $state<'newest' | 'oldest'>('newest');
  view = $state<'camera' | 'time'>('camera');
  purpose = $state(sessionStorage.getItem('camnet.purpose') ?? '');
  theme = $state<'dark' | 'light'>(localStorage.getItem('camnet.theme') === 'light' ? 'light' : 'dark');

  clips = $state.raw<Clip[]>([]);
  coverage = $state.raw<Coverage[]>([]);
  /** The range the answer on screen is about; undefined while there is none. */
  answered = $state.raw<{ from: Date; to: Date }>();
  next = $state.raw<string | null>(null);
  searching = $state(false);
  slow = $state(false);
  stopped = $state(false);
  problem = $state.raw<HubError>();
  updated = $state.raw<Date>();
  fresh = $state(0);

  private link = $state.raw<OpenLink>();
  private opened = $state.raw<Clip>();
  private asked = '';
  private pending?: AbortController;

  /** The clip being looked at; `null` when the link's clip is nowhere to be found. */
  readonly open = $derived.by<Clip | null | undefined>(() => {
    const link = this.link;
    if (!link) return undefined;
    return this.clips.find((c) => c.id === link.id) ?? (this.opened?.id === link.id ? this.opened : this.searching ? undefined : null);
  });
  readonly isOpen = $derived(this.link !== undefined);

  /** Live: the range reaches the present, so there is more to come. */
  readonly live = $derived(this.range !== undefined && (this.range.last_s !== undefined || this.range.to > this.now));

  /** The part of the range whose clips have not been fetched: nothing may be concluded from its emptiness. */
  readonly unloaded = $derived.by<{ from: Date; to: Date } | undefined>(() => {
    const last = this.clips[this.clips.length - 1];
    if (!this.next || !this.answered || !last) return undefined;
    return this.order === 'newest' ? { from: this.answered.from, to: new Date(last.start) } : { from: new Date(last.end), to: this.answered.to };
  });

  readonly cameras = $derived((this.places?.devices ?? []).filter((d) => d.kind === 'camera'));
  readonly cameraStates = $derived(new Map(this.coverage.map((c) => [c.device.id, cameraState(c)])));

  // ---------- start ----------

  async start(): Promise<void> {
    this.readAddress();
    addEventListener('popstate', () => {
      this.readAddress();
      if (this.question() !== this.asked) void this.search();
    });
    setInterval(() => this.tick(), 1000);
    setInterval(() => void this.loadLamps(), LAMP_POLL_MS);
    if (this.range) void this.search();
    await this.loadPlaces();
    await this.loadLamps();
  }

  async loadPlaces(): Promise<void> {
    try {
      this.session ??= await fetchSession(this.purpose);
      this.places = await fetchPlaces(this.purpose);
      this.placesProblem = undefined;
    } catch (error) {
      this.placesProblem = asHubError(error);
    }
  }

  private async loadLamps(): Promise<void> {
    if (document.hidden || !this.places?.devices.some((d) => d.kind === 'lamp')) return;
    this.lampEvents = await fetchLamps(this.purpose);
  }

  private tick(): void {
    this.now = new Date();
    if (document.hidden || this.searching || this.stopped) return;
    const since = this.now.getTime() - this.lastTry;
    if (since < POLL_MS) return;
    if (this.placesProblem?.kind === 'offline') void this.loadPlaces();
    // A refusal is not asked again by itself: every question is recorded, and only a person can change the answer.
    const mayPass = !this.problem || this.problem.kind === 'offline' || this.problem.status >= 500;
    if (mayPass && (this.live || this.problem)) void this.search(true);
    else if (this.placesProblem) this.lastTry = this.now.getTime();
  }
  private lastTry = 0;

  // ---------- choosing ----------

  choosePlace(place: Place): void {
    this.place = place;
    this.devices = [];
    this.range ??= lastRange(DEFAULT_LAST_S, new Date());
    this.changed();
  }

  choosePoint(point: Point, name?: string): void {
    const radius_m = this.place.kind === 'circle' ? this.place.radius_m : DEFAULT_RADIUS_M;
    this.choosePlace({ kind: 'circle', point, radius_m, name });
  }

  chooseRadius(radius_m: number): void {
    if (this.place.kind === 'circle') this.choosePlace({ ...this.place, radius_m });
  }

  chooseTime(range: Range): void {
    this.range = range;
    this.changed();
  }

  /** Only these cameras, within the place; none means all of them. */
  chooseDevices(devices: string[], everywhere = false): void {
    if (everywhere) this.place = { kind: 'everywhere' };
    this.devices = devices;
    this.range ??= lastRange(DEFAULT_LAST_S, new Date());
    this.changed();
  }

  chooseOrder(order: 'newest' | 'oldest'): void {
    this.order = order;
    this.changed();
  }

  choosePurpose(purpose: string): void {
    this.purpose = purpose;
    sessionStorage.setItem('camnet.purpose', purpose);
  }

  chooseTheme(theme: 'dark' | 'light'): void {
    this.theme = theme;
    localStorage.setItem('camnet.theme', theme);
    document.documentElement.dataset.theme = theme;
  }

  /** Opens a clip; going from one open clip to the next leaves one step for Back. */
  openClip(clip: Clip): void {
    const replace = this.link !== undefined;
    this.opened = clip;
    this.link = { id: clip.id, device: clip.device.id, at: clip.start };
    this.writeAddress(replace);
  }

  closeClip(): void {
    if (!this.link) return;
    if (history.state?.clip) history.back();
    else {
      this.link = undefined;
      this.writeAddress(true);
    }
  }

  private changed(): void {
    this.link = undefined;
    this.writeAddress(false);
    void this.search();
  }

  // ---------- asking ----------

  stop(): void {
    this.pending?.abort();
    this.stopped = true;
  }

  /** Asks the hub; `quiet` keeps what is on screen and only brings it up to date. */
  async search(quiet = false): Promise<void> {
    if (!this.range) return;
    if (this.range.last_s) this.range = lastRange(this.range.last_s, new Date());
    const asked = this.question();
    if (asked !== this.asked) quiet = false;
    this.asked = asked;
    this.pending?.abort();
    const pending = (this.pending = new AbortController());
    const slow = setTimeout(() => (this.slow = !quiet), SLOW_MS);
    this.searching = true;
    this.stopped = false;
    this.lastTry = Date.now();
    if (!quiet) {
      this.answered = undefined;
      this.clips = [];
      this.coverage = [];
      this.problem = undefined;
    }
    const { from, to } = this.range;
    try {
      const answer = await fetchClips(this.toQuestion(), this.purpose, pending.signal);
      const known = new Set(this.clips.map((c) => c.id));
      this.fresh = quiet ? answer.clips.filter((c) => !known.has(c.id)).length : 0;
      const older = quiet && answer.next ? this.clips.filter((c) => new Date(c.end) >= from) : [];
      this.clips = this.merge(answer.clips, older);
      this.coverage = answer.coverage;
      if (!quiet || older.length === 0) this.next = answer.next;
      this.answered = { from, to };
      this.updated = new Date();
      this.problem = undefined;
      await this.findLinked(pending.signal);
      while (!quiet && this.next && this.clips.length < MOST_UNASKED_CLIPS) await this.page(pending.signal);
    } catch (error) {
      if (!pending.signal.aborted) this.problem = asHubError(error);
    } finally {
      clearTimeout(slow);
      if (this.pending === pending) {
        this.searching = false;
        this.slow = false;
      }
    }
  }

  async more(): Promise<void> {
    if (!this.next || !this.range) return;
    const pending = (this.pending = new AbortController());
    this.searching = true;
    try {
      await this.page(pending.signal);
    } catch (error) {
      if (!pending.signal.aborted) this.problem = asHubError(error);
    } finally {
      if (this.pending === pending) this.searching = false;
    }
  }

  private async page(signal: AbortSignal): Promise<void> {
    if (!this.next) return;
    const answer = await fetchClips({ ...this.toQuestion(), page: this.next }, this.purpose, signal);
    this.clips = this.merge(this.clips, answer.clips);
    this.next = answer.next;
  }

  private merge(a: Clip[], b: Clip[]): Clip[] {
    const byId = new Map([...b, ...a].map((c) => [c.id, c]));
    const sign = this.order === 'newest' ? -1 : 1;
    return [...byId.values()].sort((x, y) => sign * (Date.parse(x.start) - Date.parse(y.start))).slice(0, MOST_CLIPS);
  }

  /** A shared link may name a clip that the range no longer reaches: ask for it by itself. */
  private async findLinked(signal: AbortSignal): Promise<void> {
    const link = this.link;
    if (!link || this.open || !link.at || Number.isNaN(Date.parse(link.at))) return;
    const at = Date.parse(link.at);
    const question: Question = {
      from: new Date(at - LINK_MARGIN_MS),
      to: new Date(at + LINK_MARGIN_MS),
      device: [link.device],
      order: 'newest',
      limit: PAGE_CLIPS,
    };
    this.opened = (await fetchClips(question, this.purpose, signal)).clips.find((c) => c.id === link.id);
  }

  private toQuestion(): Question {
    const range = this.range ?? lastRange(DEFAULT_LAST_S, new Date());
    const place = this.place;
    return {
      from: range.from,
      to: range.to,
      order: this.order,
      limit: PAGE_CLIPS,
      device: this.devices,
      ...(place.kind === 'circle' ? { ...place.point, radius_m: place.radius_m } : {}),
      ...(place.kind === 'area' ? { area: place.id } : {}),
    };
  }

  // ---------- the address of the page ----------

  /** What was chosen, as the page's query string. */
  private question(): string {
    const query = new URLSearchParams();
    const { place, range } = this;
    if (place.kind === 'circle') {
      query.set('at', `${place.point.lat.toFixed(6)},${place.point.lon.toFixed(6)}`);
      query.set('r', String(place.radius_m));
      if (place.name) query.set('name', place.name);
    }
    if (place.kind === 'area') query.set('area', place.id);
    if (this.devices.length) query.set('cam', this.devices.join(','));
    if (range?.last_s) query.set('last', String(range.last_s));
    else if (range) {
      query.set('from', range.from.toISOString().replace('.000', ''));
      query.set('to', range.to.toISOString().replace('.000', ''));
    }
    if (this.order === 'oldest') query.set('order', 'oldest');
    return query.toString();
  }

  private writeAddress(replace: boolean): void {
    const query = new URLSearchParams(this.question());
    if (this.link) {
      query.set('clip', this.link.id);
      query.set('clip_cam', this.link.device);
      query.set('clip_at', this.link.at);
    }
    const address = `${location.pathname}?${query}`;
    // Remembered only when Back leads from the clip to the results.
    const entry = this.link ? { clip: replace ? history.state?.clip : true } : null;
    if (replace) history.replaceState(entry, '', address);
    else history.pushState(entry, '', address);
  }

  private readAddress(): void {
    const query = new URLSearchParams(location.search);
    const [lat, lon] = (query.get('at') ?? '').split(',').map(Number);
    const area = query.get('area');
    const radius = Number(query.get('r'));
    if (query.has('at') && Number.isFinite(lat) && Number.isFinite(lon)) {
      this.place = { kind: 'circle', point: { lat, lon }, radius_m: radius > 0 ? radius : DEFAULT_RADIUS_M, name: query.get('name') ?? undefined };
    } else this.place = area ? { kind: 'area', id: area } : { kind: 'everywhere' };
    this.devices = (query.get('cam') ?? '').split(',').filter(Boolean);
    this.order = query.get('order') === 'oldest' ? 'oldest' : 'newest';
    const last = Number(query.get('last'));
    const from = new Date(query.get('from') ?? NaN);
    const to = new Date(query.get('to') ?? NaN);
    if (last > 0) this.range = lastRange(last, new Date());
    else if (from < to) this.range = { from, to };
    else {
      this.range = undefined;
      this.answered = undefined;
      this.clips = [];
      this.coverage = [];
      this.problem = undefined;
      this.asked = '';
      this.pending?.abort();
    }
    const id = query.get('clip');
    this.link = id ? { id, device: query.get('clip_cam') ?? '', at: query.get('clip_at') ?? '' } : undefined;
  }
}

function asHubError(error: unknown): HubError {
  return error instanceof HubError ? error : new HubError('problem', 0, String(error), '');
}

/** A second's seam between two words of the box makes no camera incomplete. */
const SEAM_S = 1;
const unconfirmedIs = (c: Coverage, state: Span['state']) => c.spans.some((s) => s.confirmed === false && s.state === state);

/** Whether anything was recorded, even if only by the box's last word. */
export const hasRecorded = (c: Coverage) => c.recorded_s > 0 || unconfirmedIs(c, 'recorded');

export function cameraState(c: Coverage): CameraState {
  const whole = c.gap_s < SEAM_S && !unconfirmedIs(c, 'gap');
  if (hasRecorded(c)) return whole ? 'full' : 'partly';
  const last = c.spans[c.spans.length - 1];
  return last?.cause === 'camera_unreachable' || last?.cause === 'not_yet_reported' || last?.cause === 'box_off' ? 'unreachable' : 'none';
}

/** The state of several cameras at one site: the worst that is still some recording, else the worst. */
export function worst(states: CameraState[]): CameraState {
  const asked = states.filter((s) => s !== 'unasked');
  if (asked.length === 0) return 'unasked';
  if (asked.every((s) => s === asked[0])) return asked[0];
  return asked.some((s) => s === 'full' || s === 'partly') ? 'partly' : 'unreachable';
}

/** The latest word of each circuit of a lamp cabinet, by number; a cabinet that said nothing is one `unknown`. */
export function lampStates(lamp: Device, events: LampEvent[]): LampState[] {
  const circuits = new Map<number, LampEvent>();
  for (const event of events) {
    const id = typeof event.device === 'string' ? event.device : (event.device?.id ?? event.source.split('/').pop());
    if (id !== lamp.id) continue;
    const before = circuits.get(event.data.circuit);
    if (!before || before.time < event.time) circuits.set(event.data.circuit, event);
  }
  return Array.from({ length: Math.max(...circuits.keys(), 1) }, (_, i) => {
    const event = circuits.get(i + 1);
    if (!event) return 'unknown';
    return event.data.fault ? 'fault' : event.data.on ? 'lit' : 'dark';
  });
}

export const app = new Console();
