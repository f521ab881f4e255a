import { useCallback, useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Button } from "../../../ui/Button";
import { Heights } from "../model/heights";
import * as session from "../model/session";
import { say } from "../say";
import { MessageView } from "./MessageView";

const ESTIMATE = 140; // pixels of a message that was not drawn yet
const BEYOND = 600; // pixels drawn above and below what is in view
const NEAR = 48; // pixels from the end that still count as the end
const MEANT_MS = 1000; // a scroll so soon after a wheel, touch, key or focus is the user's, as are those that follow it

/** The messages of the branch that is shown. However many there are, those in view are drawn. */
export function Thread() {
  const ids = session.path.value;
  const frame = useRef<HTMLDivElement>(null);
  const heights = useRef(new Heights(ESTIMATE)).current;
  const [range, setRange] = useState<[number, number]>([Math.max(0, ids.length - 12), ids.length]);
  const pinned = useRef(true);
  const touched = useRef(Number.NEGATIVE_INFINITY);
  const placed = useRef(-1); // where `toEnd` left the view: a scroll that ends there is not the user's
  const [atEnd, setAtEnd] = useState(true);
  heights.setKeys(ids);

  const look = useCallback(() => {
    const host = frame.current;
    if (!host) return;
    // At the end the place does not depend on heights that are still estimates.
    const top = pinned.current ? heights.total - host.clientHeight : host.scrollTop;
    const next = heights.range(top - BEYOND, top + host.clientHeight + BEYOND);
    setRange((before) => (before[0] === next[0] && before[1] === next[1] ? before : next));
  }, []);

  const toEnd = useCallback(() => {
    const host = frame.current;
    if (!host) return;
    host.scrollTop = host.scrollHeight;
    placed.current = host.scrollTop;
  }, []);

  // One observer measures all rows. What changes above the view moves the view along, so that nothing jumps.
  const observer = useRef<ResizeObserver | null>(null);
  observer.current ??= new ResizeObserver((entries) => {
    const host = frame.current;
    if (!host) return;
    let moved = 0;
    for (const { target } of entries) {
      const row = target as HTMLElement;
      const key = row.dataset.key;
      if (key === undefined || !row.isConnected) continue;
      const above = row.offsetTop + row.offsetHeight <= host.scrollTop;
      const difference = heights.measure(key, row.offsetHeight);
      if (above) moved += difference;
    }
    if (pinned.current) toEnd();
    else if (moved !== 0) host.scrollTop += moved;
    look();
  });
  useEffect(() => () => observer.current?.disconnect(), []);

  // Whoever says something wants to see it, and the answer.
  const newest = ids.at(-1);
  useLayoutEffect(() => {
    if (newest === undefined || !session.running.peek().has(newest)) return;
    pinned.current = true;
    setAtEnd(true);
  }, [newest]);
  useLayoutEffect(() => {
    if (pinned.current) toEnd();
  }, [ids, range]);
  useLayoutEffect(look, [ids]);

  useEffect(() => {
    const host = frame.current;
    if (!host) return;
    let width = host.clientWidth;
    const resized = new ResizeObserver(() => {
      if (host.clientWidth !== width) {
        width = host.clientWidth;
        heights.forget();
      }
      if (pinned.current) toEnd();
      look();
    });
    resized.observe(host);
    return () => resized.disconnect();
  }, []);

  const scrolled = () => {
    const host = frame.current;
    if (!host) return;
    // Text that arrives, and rows that find their height, move the end away: only somebody who scrolls leaves it.
    const now = performance.now();
    const near = host.scrollHeight - host.scrollTop - host.clientHeight < NEAR;
    const meant = host.scrollTop !== placed.current && now - touched.current < MEANT_MS;
    if (near || meant) pinned.current = near;
    else if (pinned.current) toEnd();
    if (meant) touched.current = now;
    setAtEnd(pinned.current);
    look();
  };

  const touch = () => {
    touched.current = performance.now();
  };
  const [begin, end] = [Math.min(range[0], ids.length), Math.min(Math.max(range[1], range[0]), ids.length)];
  const shown = ids.slice(begin, Math.max(end, begin));
  return (
    <div class="thread-frame">
      <div
        ref={frame}
        class="thread"
        onScroll={scrolled}
        onWheel={touch}
        onTouchMove={touch}
        onKeyDown={touch}
        onPointerDown={touch}
        onFocusIn={touch}
        tabIndex={0}
        role="feed"
        aria-label={session.current.value?.title}
      >
        <div style={{ height: `${heights.top(begin)}px` }} />
        {shown.map((id, place) => (
          <Row key={id} id={id} place={begin + place} count={ids.length} observer={observer.current as ResizeObserver} />
        ))}
        <div style={{ height: `${Math.max(0, heights.total - heights.top(end))}px` }} />
      </div>
      {!atEnd && (
        <div class="thread-jump">
          <Button
            icon="expand"
            label={say("message.newest")}
            onClick={() => {
              pinned.current = true;
              setAtEnd(true);
              toEnd();
            }}
          />
        </div>
      )}
    </div>
  );
}

function Row({ id, place, count, observer }: { id: string; place: number; count: number; observer: ResizeObserver }) {
  const element = useRef<HTMLElement>(null);
  useEffect(() => {
    const row = element.current;
    if (!row) return;
    observer.observe(row);
    return () => observer.unobserve(row);
  }, []);
  return (
    <article ref={element} class="thread-row" data-key={id} aria-posinset={place + 1} aria-setsize={count} tabIndex={-1}>
      <MessageView id={id} last={place === count - 1} />
    </article>
  );
}
