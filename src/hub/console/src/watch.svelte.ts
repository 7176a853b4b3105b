// Owns the clock that all open cameras are played by: one moment, one speed, one span to repeat.
// The film of the first camera that has one leads; the others follow it; where none has any, the clock jumps on.
import type { Clip } from './api';
import { duration, t } from './i18n.svelte';
import { catchUp, clipAt, clipsOf, nextStart, playable, previousEnd } from './playback';
import { app } from './state.svelte';

export const SPEEDS = [0.25, 0.5, 1, 2, 4, 8, 16];
export const JUMP_S = 2;
/** Until two frames were seen; many cameras on poles send about so many. */
const FRAME_S = 0.1;
const FRAMES_SEEN = 16;
/** How long the reason for "nothing" can be read before the clock jumps on. */
const HOLD_MS = 2500;
/** So near to its beginning a clip counts as not begun: going back leads to the one before. */
const START_MS = 150;
/** So long the others are waited for; a camera that still loads then joins later. */
const STALL_MS = 3000;

/** What a tile offers: its clip and its film. */
export interface Film {
  device: string;
  clip: Clip;
  video: HTMLVideoElement;
  failed: boolean;
}

class Watch {
  /** The moment that is shown, ms since 1970. */
  at = $state(0);
  playing = $state(false);
  waiting = $state(false);
  speed = $state(1);
  loop = $state.raw<{ from?: number; to?: number }>({});
  told = $state('');
  frame_s = FRAME_S;

  readonly devices = $derived.by<string[]>(() => {
    const first = app.openDevice;
    return first ? [first, ...app.beside.filter((d) => d !== first)] : [];
  });
  /** The open clip is always among them, also when a link named it and the range does not reach it. */
  readonly clips = $derived.by<Clip[][]>(() => {
    const open = app.open;
    const all = open && !app.clips.some((c) => c.id === open.id) ? [...app.clips, open] : app.clips;
    return this.devices.map((device) => clipsOf(all, device));
  });

  private apart: number[] = [];
  private films = new Map<string, Film>();
  private frame = 0;
  private emptySince = 0;
  private stalledSince = 0;

  register(film: Film): () => void {
    this.films.set(film.device, film);
    return () => {
      if (this.films.get(film.device) === film) this.films.delete(film.device);
    };
  }

  start(): () => void {
    const turn = () => {
      this.tick();
      this.frame = requestAnimationFrame(turn);
    };
    // Not called here: what a turn reads would start the clock anew each time it changes.
    this.frame = requestAnimationFrame(turn);
    return () => {
      cancelAnimationFrame(this.frame);
      this.pause();
      this.loop = {};
      this.told = '';
    };
  }

  /** Another clip was opened by hand: from its beginning. */
  begin(clip: Clip): void {
    const at = Date.parse(clip.start);
    if (this.at >= at && this.at < Date.parse(clip.end) && this.devices[0] === clip.device.id && this.following === clip.id) return;
    this.at = at;
    this.told = '';
    this.emptySince = 0;
    this.align();
    this.play();
  }
  /** The clip that the clock itself went on to. */
  private following = '';

  play(): void {
    this.playing = true;
    this.emptySince = 0;
  }
  pause(): void {
    this.playing = false;
    for (const film of this.films.values()) film.video.pause();
  }
  toggle(): void {
    if (this.playing) this.pause();
    else this.play();
  }
  faster(): void {
    if (!this.playing) {
      this.speed = 1;
      this.play();
    } else this.speed = SPEEDS[Math.min(SPEEDS.length - 1, SPEEDS.indexOf(this.speed) + 1)];
  }

  seek(at: number): void {
    this.at = at;
    this.told = '';
    this.emptySince = performance.now();
    this.align();
  }

  /** The moment in the picture; a film that is still loading has none of its own. */
  private get shown(): number {
    const lead = this.lead;
    return lead && lead.video.readyState > 0 && !lead.video.seeking ? filmTime(lead) : this.at;
  }

  /** Back by a little, first to the clip's beginning, from there into the clip before. */
  back(): void {
    const lead = this.lead;
    const from = this.shown;
    const to = from - JUMP_S * 1000;
    const start = lead ? Date.parse(lead.clip.start) : undefined;
    if (this.clips.some((clips) => playable(clipAt(clips, to)))) return this.seek(to);
    if (start !== undefined && from - start > START_MS) return this.seek(start);
    const end = previousEnd(this.clips, from);
    if (end !== undefined) this.seek(Math.max(end - JUMP_S * 1000, Date.parse(this.clips.flatMap((clips) => clipAt(clips, end - 1) ?? [])[0]?.start ?? '') || end - 1));
    else if (start !== undefined) this.seek(start);
  }

  /** One frame, or so many seconds; into the neighbouring clip where this one ends. */
  step(seconds: number): void {
    this.pause();
    const from = this.shown;
    const at = from + seconds * 1000;
    const covered = this.clips.some((clips) => playable(clipAt(clips, at)));
    if (covered) return this.seek(at);
    const beyond = seconds > 0 ? nextStart(this.clips, from) : previousEnd(this.clips, at + 1);
    this.seek(beyond === undefined ? Math.max(this.first, Math.min(this.last, at)) : seconds > 0 ? beyond : beyond - this.frame_s * 1000);
  }

  /** A frame's length, as the film shows it while it runs. */
  sawFrames(apart_s: number): void {
    if (this.speed > 1 || apart_s < 1 / 120 || apart_s > 1) return;
    this.apart = [...this.apart.slice(1 - FRAMES_SEEN), apart_s];
    // Cameras are not punctual, and a busy machine leaves frames out: neither the shortest nor the middle is believed.
    if (this.apart.length === FRAMES_SEEN) this.frame_s = [...this.apart].sort((a, b) => a - b)[FRAMES_SEEN >> 2];
  }

  markLoop(end: 'from' | 'to'): void {
    const loop = { ...this.loop, [end]: this.at };
    if (loop.from !== undefined && loop.to !== undefined && loop.from >= loop.to) delete loop[end === 'from' ? 'to' : 'from'];
    this.loop = loop;
  }

  get first(): number {
    return Math.min(...this.clips.flat().map((c) => Date.parse(c.start)));
  }
  get last(): number {
    return Math.max(...this.clips.flat().map((c) => Date.parse(c.end)));
  }

  private get lead(): Film | undefined {
    for (const device of this.devices) {
      const film = this.films.get(device);
      if (film && !film.failed && covers(film.clip, this.at)) return film;
    }
    return undefined;
  }

  /** Moves every film to the clock's moment. */
  align(): void {
    for (const film of this.films.values()) this.place(film);
  }
  place(film: Film): void {
    const to = (this.at - Date.parse(film.clip.start)) / 1000;
    if (to >= 0 && film.video.readyState > 0) film.video.currentTime = Math.min(to, film.video.duration || to);
  }

  private tick(): void {
    const lead = this.lead;
    if (!this.playing) {
      this.waiting = false;
      return;
    }
    if (this.loop.from !== undefined && this.loop.to !== undefined && this.at >= this.loop.to) return this.seek(this.loop.from);
    if (!lead) return this.cross();
    this.emptySince = 0;
    const { video } = lead;
    if (this.hold(lead)) return;
    video.playbackRate = this.speed;
    if (video.ended) {
      this.at = Math.max(Date.parse(lead.clip.end), this.at);
      return;
    }
    if (video.paused) void video.play().catch(() => undefined);
    if (!video.seeking && video.readyState >= 2) this.at = Math.min(filmTime(lead), Date.parse(lead.clip.end));
    for (const film of this.films.values()) if (film !== lead) this.follow(film);
  }

  /** Whether everybody waits: the lead has no picture yet, or another camera is behind and was not waited for long. */
  private hold(lead: Film): boolean {
    const late = [...this.films.values()].some((f) => f !== lead && !f.failed && covers(f.clip, this.at) && f.video.readyState < 3);
    const now = performance.now();
    if (!late) this.stalledSince = 0;
    else this.stalledSince ||= now;
    this.waiting = lead.video.readyState < 3 && !lead.video.ended;
    if (!late || now - this.stalledSince > STALL_MS) return false;
    this.waiting = true;
    lead.video.pause();
    for (const film of this.films.values()) if (film !== lead && covers(film.clip, this.at) && film.video.seekable.length && Math.abs(filmTime(film) - this.at) > 300 && !film.video.seeking) this.place(film);
    return true;
  }

  private follow(film: Film): void {
    const { video } = film;
    if (!covers(film.clip, this.at) || film.failed) return video.pause();
    const rate = catchUp((this.at - filmTime(film)) / 1000, this.speed);
    if (rate === undefined) {
      if (!video.seeking) this.place(film);
    } else video.playbackRate = rate;
    if (video.paused && !video.ended) void video.play().catch(() => undefined);
  }

  /** No open camera has footage at this moment: the reason stands a while, then the next footage comes. */
  private cross(): void {
    for (const film of this.films.values()) film.video.pause();
    if (this.clips.some((clips) => playable(clipAt(clips, this.at)))) {
      // Its film is still being put up.
      this.waiting = true;
      return;
    }
    this.waiting = false;
    this.emptySince ||= performance.now();
    const next = nextStart(this.clips, this.at);
    if (next === undefined) {
      this.playing = false;
      this.told = t('player.end_of_clips');
    } else if (performance.now() - this.emptySince > HOLD_MS) {
      this.told = t('player.jumped', { length: duration(next - this.at) });
      this.at = next;
      this.emptySince = 0;
      this.align();
    }
  }

  /** The open clip follows the clock, so that the facts beside the picture are those of the picture. */
  keepOpen(): void {
    const clip = this.clips[0] && clipAt(this.clips[0], this.at, app.open?.id);
    if (!clip || clip.id === app.open?.id) return;
    this.following = clip.id;
    app.openClip(clip);
  }
}

const covers = (clip: Clip, at: number) => Date.parse(clip.start) <= at && at < Date.parse(clip.end);
const filmTime = (film: Film) => Date.parse(film.clip.start) + film.video.currentTime * 1000;

export const watch = new Watch();
