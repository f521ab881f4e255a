/** Bounds of the colours of a heat map, in even shares: an expert with half of an even share has the third colour. */
export const LEVELS = [0, 0.25, 0.5, 0.8, 1.25, 2, 3] as const;

export interface Cell {
  row: number;
  column: number;
}

/** How evenly the tokens of a model go to its experts, mixture by mixture. */
export interface Heat {
  columns: number;
  /** Load of each expert over the mean of its mixture; 0 where the mixture had no token yet. */
  shares: number[][];
  /** Of each mixture the expert with the highest load; null without tokens. */
  busiest: (Cell | null)[];
  /** Of each mixture the number of experts that no token has chosen. */
  idle: number[];
  experts: number;
}

export function heatOf(loads: readonly (readonly number[])[]): Heat {
  const shares = loads.map((row) => {
    const mean = row.reduce((sum, load) => sum + load, 0) / Math.max(row.length, 1);
    return row.map((load) => (mean > 0 ? load / mean : 0));
  });
  const busiest = shares.map((row, place) => {
    const most = row.reduce((best, share, column) => (share > (row[best] ?? 0) ? column : best), 0);
    return (row[most] ?? 0) > 0 ? { row: place, column: most } : null;
  });
  return {
    columns: Math.max(0, ...loads.map((row) => row.length)),
    shares,
    busiest,
    idle: loads.map((row) => row.filter((load) => load === 0).length),
    experts: loads.reduce((sum, row) => sum + row.length, 0),
  };
}

/** The colour of a share, counted from 0. */
export function levelOf(share: number): number {
  let level = 0;
  LEVELS.forEach((bound, place) => {
    if (share > 0 && share >= bound) level = place;
  });
  return share > 0 ? Math.max(level, 1) : 0;
}

/** The expert with the highest share of all mixtures. */
export function hottest(heat: Heat): Cell | null {
  let best: Cell | null = null;
  for (const cell of heat.busiest) {
    if (cell && (best === null || shareAt(heat, cell) > shareAt(heat, best))) best = cell;
  }
  return best;
}

export function shareAt(heat: Heat, cell: Cell): number {
  return heat.shares[cell.row]?.[cell.column] ?? 0;
}

/** The cell that an arrow key leads to; the same one at an edge, null for other keys. */
export function moved(heat: Heat, from: Cell, key: string): Cell | null {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[key];
  if (step === undefined) return null;
  const row = Math.min(Math.max(from.row + (step[0] ?? 0), 0), heat.shares.length - 1);
  const last = (heat.shares[row]?.length ?? 1) - 1;
  return { row, column: Math.min(Math.max(from.column + (step[1] ?? 0), 0), last) };
}
