// Owns what the officer chose (place, time, cameras: also the page's address) and what the hub answered.
// Components read it and call its methods; only this file and follow.svelte.ts talk to the hub, only this one to the history.
import { DEFAULT_RADIUS_M, DEFAULT_WIDTH_M, plain, readChoice, toQuestion, writeChoice, type Choice, type Place } from './address';
import {
  fetchLamps,
  fetchPlaces,
  fetchSession,
  fetchTimeline,
  HubError,
  queryOf,
  requestFootage,
  streamClips,
  type Bucket,
  type Clip,
  type Coverage,
  type Device,
  type LampEvent,
  type Line,
  type Places,
  type Point,
  type Question,
  type Session,
  type Span,
  type Understood,
} from './api';
import { lastRange, windowsOf, type Range } from './time';

export const RADII_M = [50, 100, 200, 500];
export const WIDTHS_M = [30, 60, 100, 200];
/** How many cameras are looked at side by side. */
export const BESIDE_MAX = 3;
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

  /** What is being drawn on the map: a polygon, a street, or the point that somebody wants seen. */
  drawing = $state.raw<{ kind: 'polygon' | 'route' | 'sees'; points: Point[] }>();
  /** Cameras looked at beside the open clip's own. */
  beside = $state.raw<string[]>([]);
  help = $state(false);
  /** Single letters as keys can be switched off for those who speak or hit keys by accident (WCAG 2.1.4). */
  letterKeys = $state(localStorage.getItem('camnet.keys') !== 'off');
  thrifty = $state(localStorage.getItem('camnet.thrifty') ? localStorage.getItem('camnet.thrifty') === 'on' : slowLink());

  clips = $state.raw<Clip[]>([]);
  coverage = $state.raw<Coverage[]>([]);
  understood = $state.raw<Understood>();
  counts = $state.raw<{ bucket_s: number; buckets: Bucket[] }>();
  /** What came of asking for footage that lies on a box, by camera. */
  requests = $state.raw<Map<string, 'asked' | 'waiting' | HubError>>(new Map());
  /** The range the answer on screen is about; undefined while there is none. */
  answered = $state.raw<{ from: Date; to: Date }>();
  next = $state.raw<string | null>(null);
  searching = $state(false);
  slow = $state(false);
  stopped = $state(false);
  /** The whole first answer is here, so that what is missing in it is missing. */
  whole = $state(false);
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
  /** The camera whose clip is open. */
  readonly openDevice = $derived(this.link?.device);

  /** Live: the range reaches the present, so there is more to come. */
  readonly live = $derived(this.range !== undefined && (this.range.last_s !== undefined || this.range.to > this.now));

  /** The part of the range whose clips have not been fetched: nothing may be concluded from its emptiness. */
  readonly unloaded = $derived.by<{ from: Date; to: Date } | undefined>(() => {
    const last = this.clips[this.clips.length - 1];
    if (!this.next || !this.answered || !last) return undefined;
    return this.order === 'newest' ? { from: this.answered.from, to: new Date(last.start) } : { from: new Date(last.end), to: this.answered.to };
  });

  /** The windows that were asked about: one, or the same hours of several days. */
  readonly windows = $derived<{ from: Date; to: Date }[]>(
    this.understood?.windows?.length
      ? this.understood.windows.map((w) => ({ from: new Date(w.from), to: new Date(w.to) }))
      : this.range && this.answered
        ? windowsOf({ ...this.range, ...this.answered })
        : [],
  );

  readonly cameras = $derived((this.places?.devices ?? []).filter((d) => d.kind === 'camera'));
  readonly cameraStates = $derived(new Map(this.coverage.map((c) => [c.device.id, cameraState(c)])));

  // ---------- start ----------

  async start(): Promise<void> {
    this.readAddress();
    addEventListener('popstate', () => {
      this.readAddress();
      if (this.choice() !== this.asked) void this.search();
    });
    setInterval(() => this.tick(), 1000);
    setInterval(() => void this.loadLamps(), LAMP_POLL_MS);
    if (this.range) void this.search();
    await this.loadPlaces();
    await this.loadLamps();
  }

  /** What the technicians' pages share with the officers': who looks, the registry, the clock. */
  async startBeside(): Promise<void> {
    setInterval(() => (this.now = new Date()), 1000);
    await this.loadPlaces();
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
    if (mayPass && (this.live || this.problem)) void this.search(this.whole);
    else if (this.placesProblem) this.lastTry = this.now.getTime();
  }
  private lastTry = 0;

  // ---------- choosing ----------

  choosePlace(place: Place): void {
    this.place = place;
    this.devices = [];
    this.drawing = undefined;
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

  chooseWidth(width_m: number): void {
    if (this.place.kind === 'route') this.choosePlace({ ...this.place, width_m });
  }

  /** From the circle's point to the cameras that could see it, and back. */
  chooseSees(sees: boolean): void {
    const place = this.place;
    if (sees && place.kind === 'circle') this.choosePlace({ kind: 'sees', point: place.point, name: place.name });
    if (!sees && place.kind === 'sees') this.choosePlace({ kind: 'circle', point: place.point, name: place.name, radius_m: DEFAULT_RADIUS_M });
  }

  // ---------- drawing on the map ----------

  draw(kind: 'polygon' | 'route' | 'sees' | undefined): void {
    this.drawing = kind && this.drawing?.kind !== kind ? { kind, points: [] } : undefined;
  }

  /** A tap on the map: the next corner of what is drawn, or the point to search around. */
  tapMap(point: Point): void {
    const drawn = this.drawing;
    if (!drawn) this.choosePoint(point);
    else if (drawn.kind === 'sees') this.choosePlace({ kind: 'sees', point });
    else this.drawing = { ...drawn, points: [...drawn.points, point] };
  }

  undoCorner(): void {
    if (this.drawing) this.drawing = { ...this.drawing, points: this.drawing.points.slice(0, -1) };
  }

  finishDrawing(): void {
    const drawn = this.drawing;
    if (drawn?.kind === 'polygon' && drawn.points.length >= 3) this.choosePlace({ kind: 'polygon', ring: drawn.points });
    if (drawn?.kind === 'route' && drawn.points.length >= 2) this.choosePlace({ kind: 'route', line: drawn.points, width_m: DEFAULT_WIDTH_M });
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

  chooseThrifty(thrifty: boolean): void {
    this.thrifty = thrifty;
    localStorage.setItem('camnet.thrifty', thrifty ? 'on' : 'off');
  }

  chooseLetterKeys(on: boolean): void {
    this.letterKeys = on;
    localStorage.setItem('camnet.keys', on ? 'on' : 'off');
  }

  /** Puts a camera beside the open one, or takes it away. */
  toggleBeside(device: string): void {
    const has = this.beside.includes(device);
    this.beside = has ? this.beside.filter((d) => d !== device) : [...this.beside, device].slice(-BESIDE_MAX);
    this.writeAddress(true);
  }

  /** Looks at one camera in a time of its own: what following proposes. */
  chooseLook(device: string, range: Range): void {
    this.place = { kind: 'everywhere' };
    this.devices = [device];
    this.range = range;
    this.changed();
  }

  /** Opens a clip; going from one open clip to the next leaves one step for Back. */
  openClip(clip: Clip): void {
    const replace = this.link !== undefined;
    this.opened = clip;
    this.beside = this.beside.filter((device) => device !== clip.device.id);
    this.link = { id: clip.id, device: clip.device.id, at: clip.start };
    this.writeAddress(replace);
  }

  closeClip(): void {
    if (!this.link) return;
    if (history.state?.clip) history.back();
    else {
      this.link = undefined;
      this.beside = [];
      this.writeAddress(true);
    }
  }

  private changed(): void {
    this.link = undefined;
    this.beside = [];
    this.writeAddress(false);
    void this.search();
  }

  // ---------- asking ----------

  stop(): void {
    this.pending?.abort();
    this.stopped = true;
    this.searching = false;
  }

  /** Asks the hub; `quiet` keeps what is on screen and only brings it up to date. */
  async search(quiet = false): Promise<void> {
    if (!this.range) return;
    if (this.range.last_s) this.range = lastRange(this.range.last_s, new Date());
    const asked = this.choice();
    if (asked !== this.asked) quiet = false;
    this.asked = asked;
    this.pending?.abort();
    const pending = (this.pending = new AbortController());
    const slow = setTimeout(() => (this.slow = !quiet), SLOW_MS);
    this.searching = true;
    this.stopped = false;
    this.lastTry = Date.now();
    if (!quiet) this.forget();
    try {
      if (quiet) await this.refresh(pending.signal);
      else await this.ask(pending.signal);
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

  private forget(): void {
    this.answered = undefined;
    this.understood = undefined;
    this.counts = undefined;
    this.clips = [];
    this.coverage = [];
    this.next = null;
    this.whole = false;
    this.problem = undefined;
    this.requests = new Map();
  }

  /** A new question: every piece of the answer is shown when it comes. */
  private async ask(signal: AbortSignal): Promise<void> {
    const range = this.range ?? lastRange(DEFAULT_LAST_S, new Date());
    const question = this.toQuestion();
    void fetchTimeline(question, this.purpose, signal).then((counts) => {
      if (!signal.aborted) this.counts = counts;
    });
    await streamClips(question, this.purpose, signal, (lines) => {
      if (signal.aborted) return;
      this.answered ??= { from: range.from, to: range.to };
      this.take(lines);
    });
    this.updated = new Date();
    this.whole = true;
    await this.findLinked(signal);
    while (this.next && this.clips.length < MOST_UNASKED_CLIPS) await this.page(signal);
  }

  /** The same question again: what is on screen stays until the whole answer is there. */
  private async refresh(signal: AbortSignal): Promise<void> {
    const { from, to } = this.range ?? lastRange(DEFAULT_LAST_S, new Date());
    const question = this.toQuestion();
    const all: Line[] = [];
    await streamClips(question, this.purpose, signal, (lines) => all.push(...lines));
    const clips = all.flatMap((line) => line.clip ?? []);
    const next = all.find((line) => line.end)?.end?.next ?? null;
    const known = new Set(this.clips.map((c) => c.id));
    this.fresh = clips.filter((c) => !known.has(c.id)).length;
    const older = next ? this.clips.filter((c) => new Date(c.end) >= from) : [];
    this.clips = this.merge(clips, older);
    this.coverage = all.flatMap((line) => line.coverage ?? []);
    if (older.length === 0) this.next = next;
    this.understood = all.find((line) => line.understood)?.understood ?? this.understood;
    this.answered = { from, to };
    this.updated = new Date();
    this.whole = true;
    this.problem = undefined;
    if (this.fresh) this.counts = (await fetchTimeline(question, this.purpose, signal)) ?? this.counts;
    await this.findLinked(signal);
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
    const page = this.next;
    await streamClips({ ...this.toQuestion(), page }, this.purpose, signal, (lines) => {
      if (!signal.aborted) this.take(lines.filter((line) => !line.coverage && !line.understood));
    });
    if (this.next === page) this.next = null;
  }

  private take(lines: Line[]): void {
    const clips = lines.flatMap((line) => line.clip ?? []);
    const coverage = lines.flatMap((line) => line.coverage ?? []);
    if (clips.length) this.clips = this.merge(clips, this.clips);
    if (coverage.length) this.coverage = [...this.coverage, ...coverage];
    for (const line of lines) {
      if (line.understood) this.understood = line.understood;
      if (line.end) this.next = line.end.next ?? null;
    }
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
      from: new Date(at - LINK_MARGIN_MS).toISOString(),
      to: new Date(at + LINK_MARGIN_MS).toISOString(),
      device: [link.device],
      order: 'newest',
      limit: PAGE_CLIPS,
    };
    await streamClips(question, this.purpose, signal, (lines) => {
      for (const { clip } of lines) if (clip?.id === link.id) this.opened = clip;
    });
  }

  private toQuestion(): Question {
    return { ...toQuestion(this.chosen), limit: PAGE_CLIPS };
  }

  /** Where the whole answer can be had as a file. */
  download(kind: 'csv' | 'geojson'): string {
    const query = queryOf(toQuestion(this.chosen));
    if (this.purpose.trim()) query.set('purpose', this.purpose.trim());
    return `/api/v1/clips.${kind}?${query}`;
  }

  /** A link that means the same tomorrow: "the last hour" becomes its two times. */
  shareLink(): string {
    const range = this.answered ?? this.range;
    const query = writeChoice({ ...this.chosen, range: range && { ...this.range, from: range.from, to: range.to, last_s: undefined } });
    this.writeLink(query);
    return `${location.origin}${location.pathname}?${plain(query)}`;
  }

  /** Asks the hub to fetch what lies on a box; its answer, also a refusal, is kept beside the camera. */
  async requestFootage(device: string, from: string, to: string): Promise<void> {
    const note = (value: 'asked' | 'waiting' | HubError) => (this.requests = new Map(this.requests).set(device, value));
    note('waiting');
    try {
      await requestFootage({ device, from, to }, this.purpose);
      note('asked');
    } catch (error) {
      note(asHubError(error));
    }
  }

  // ---------- the address of the page ----------

  private get chosen(): Choice {
    return { place: this.place, range: this.range, devices: this.devices, order: this.order };
  }

  private choice(): string {
    return writeChoice(this.chosen).toString();
  }

  private writeLink(query: URLSearchParams): void {
    if (!this.link) return;
    query.set('clip', this.link.id);
    query.set('clip_cam', this.link.device);
    query.set('clip_at', this.link.at);
    if (this.beside.length) query.set('with', this.beside.join(','));
  }

  private writeAddress(replace: boolean): void {
    const query = writeChoice(this.chosen);
    this.writeLink(query);
    const address = `${location.pathname}?${plain(query)}`;
    // Remembered only when Back leads from the clip to the results.
    const entry = this.link ? { clip: replace ? history.state?.clip : true } : null;
    if (replace) history.replaceState(entry, '', address);
    else history.pushState(entry, '', address);
  }

  private readAddress(): void {
    const query = new URLSearchParams(location.search);
    const chosen = readChoice(query, new Date());
    this.place = chosen.place;
    this.devices = chosen.devices;
    this.order = chosen.order;
    this.range = chosen.range;
    this.drawing = undefined;
    if (!this.range) {
      this.pending?.abort();
      this.forget();
      this.asked = '';
    }
    const id = query.get('clip');
    this.link = id ? { id, device: query.get('clip_cam') ?? '', at: query.get('clip_at') ?? '' } : undefined;
    this.beside = id ? (query.get('with') ?? '').split(',').filter(Boolean).slice(0, BESIDE_MAX) : [];
  }
}

/** What the browser says of the link: saving was asked for, or it is a poor one. */
function slowLink(): boolean {
  const link = (navigator as { connection?: { saveData?: boolean; effectiveType?: string; downlink?: number } }).connection;
  return link !== undefined && (link.saveData === true || /2g|3g/.test(link.effectiveType ?? ''));
}

export function asHubError(error: unknown): HubError {
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

/** The latest word of every circuit, by cabinet and number. */
export function lampMap(places: Places, events: LampEvent[] | undefined): Map<string, Map<number, LampState>> {
  const lamps = places.devices.filter((d) => d.kind === 'lamp');
  return new Map(lamps.map((d) => [d.id, new Map(lampStates(d, events ?? []).map((state, i) => [i + 1, state]))]));
}

export const app = new Console();
