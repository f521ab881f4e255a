/** A place in a text, from `start` to before `end`. */
export interface Span {
  start: number;
  end: number;
}

/** A piece of a text, and the numbers of the spans that cover it. */
export interface Piece {
  text: string;
  start: number;
  covers: number[];
}

/**
 * Changes offsets that count characters (code points, as the server does) into those of JavaScript's strings, where a
 * character outside the basic plane has two units. One pass over the text.
 */
export function toUnits(text: string, spans: readonly Span[]): Span[] {
  const wanted = [...new Set(spans.flatMap(({ start, end }) => [start, end]))].sort((a, b) => a - b);
  const units = new Map<number, number>();
  let point = 0;
  let unit = 0;
  for (const offset of wanted) {
    while (point < offset && unit < text.length) {
      const high = text.charCodeAt(unit);
      const pair = high >= 0xd800 && high < 0xdc00 && unit + 1 < text.length && isLow(text.charCodeAt(unit + 1));
      unit += pair ? 2 : 1;
      point += 1;
    }
    units.set(offset, unit);
  }
  return spans.map(({ start, end }) => ({ start: units.get(start) ?? 0, end: units.get(end) ?? 0 }));
}

function isLow(unit: number): boolean {
  return unit >= 0xdc00 && unit < 0xe000;
}

/** Cuts the part of a text between two places wherever a span begins or ends. Spans may overlap. */
export function pieces(text: string, spans: readonly Span[], from: number, to: number): Piece[] {
  const cuts = new Set([from, to]);
  for (const span of spans) {
    for (const place of [span.start, span.end]) if (place > from && place < to) cuts.add(place);
  }
  const places = [...cuts].sort((a, b) => a - b);
  return places.slice(0, -1).map((start, at) => {
    const end = places[at + 1] ?? to;
    const covers = spans.flatMap((span, index) => (span.start < end && span.end > start ? [index] : []));
    return { text: text.slice(start, end), start, covers };
  });
}
