import { useEffect, useRef, useState } from "preact/hooks";
import { count } from "../../i18n";
import { theme } from "../../state/theme";
import { Table } from "../../ui/Table";
import { type Cell, type Heat, heatOf, hottest, LEVELS, levelOf, moved, shareAt } from "./heat";
import { say } from "./say";

const LEAST_WIDTH = 5; // of a cell, in pixels: below it the map scrolls
const MOST_WIDTH = 22;
const GAP = 1;

/** Which experts the tokens of a model go to: rows are its mixtures, columns their experts. */
export function Experts({ name, loads }: { name: string; loads: readonly (readonly number[])[] }) {
  const [cell, setCell] = useState<Cell | null>(null);
  const [spoken, setSpoken] = useState("");
  const heat = heatOf(loads);
  const top = hottest(heat);
  const idle = heat.idle.reduce((sum, one) => sum + one, 0);
  const describe = (at: Cell) =>
    say("experts.cell", {
      mixture: at.row + 1,
      expert: at.column,
      load: count(loads[at.row]?.[at.column] ?? 0),
      share: count(shareAt(heat, at), 2),
    });
  return (
    <section class="usage-experts">
      <h2>{say("experts", { name })}</h2>
      <p class="muted small">{say("experts.lead")}</p>
      {top === null ? (
        <p class="muted">{say("experts.none")}</p>
      ) : (
        <>
          <HeatMap
            label={say("experts", { name })}
            heat={heat}
            cell={cell}
            onPoint={setCell}
            onKey={(at) => {
              setCell(at);
              setSpoken(describe(at));
            }}
          />
          <div class="usage-heat-about">
            <Legend />
            <span class="usage-heat-said">{describe(cell ?? top)}</span>
            <span class="unseen" role="status">
              {spoken}
            </span>
          </div>
          <p class="small">
            {say("experts.idle", { idle: count(idle), all: count(heat.experts) })}
          </p>
          <details class="chart-values">
            <summary>{say("experts.table")}</summary>
            <Table
              label={say("experts.table")}
              rows={heat.busiest.map((busiest, row) => ({ busiest, row }))}
              id={({ row }) => String(row)}
              columns={[
                { name: "mixture", title: say("column.mixture"), cell: ({ row }) => count(row + 1), number: true },
                { name: "busiest", title: say("column.busiest"), cell: ({ busiest }) => busiest?.column ?? "–", number: true },
                {
                  name: "share",
                  title: say("column.share"),
                  cell: ({ busiest }) => (busiest ? `${count(shareAt(heat, busiest), 2)}×` : "–"),
                  number: true,
                },
                { name: "idle", title: say("column.idle"), cell: ({ row }) => count(heat.idle[row] ?? 0), number: true },
              ]}
            />
          </details>
        </>
      )}
    </section>
  );
}

interface MapProps {
  label: string;
  heat: Heat;
  cell: Cell | null;
  onPoint: (cell: Cell | null) => void;
  onKey: (cell: Cell) => void;
}

/** The picture, on one canvas: a large model has fifteen thousand experts. The arrow keys go from cell to cell. */
function HeatMap({ label, heat, cell, onPoint, onKey }: MapProps) {
  const frame = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const [width, setWidth] = useState(0);
  const [scheme, setScheme] = useState(0);
  useEffect(() => {
    const host = frame.current;
    if (!host) return;
    const watching = new ResizeObserver(() => setWidth(host.clientWidth));
    watching.observe(host);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const redraw = () => setScheme((round) => round + 1);
    dark.addEventListener("change", redraw);
    return () => {
      watching.disconnect();
      dark.removeEventListener("change", redraw);
    };
  }, []);
  const size = sizeOf(heat, width);
  const shown = theme.value;
  useEffect(() => {
    if (canvas.current && width > 0) draw(canvas.current, heat, size, cell);
  }, [heat, cell, width, scheme, shown]);
  const at = (event: MouseEvent): Cell | null => {
    const box = canvas.current?.getBoundingClientRect();
    if (!box) return null;
    const found = { row: Math.floor((event.clientY - box.top) / size.height), column: Math.floor((event.clientX - box.left) / size.width) };
    return heat.shares[found.row]?.[found.column] === undefined ? null : found;
  };
  return (
    <div
      ref={frame}
      class="usage-heat"
      role="group"
      aria-label={say("experts.map", { label })}
      tabIndex={0}
      onKeyDown={(event) => {
        const next = moved(heat, cell ?? { row: 0, column: -1 }, event.key);
        if (next === null) return;
        event.preventDefault();
        onKey(next);
      }}
    >
      <canvas ref={canvas} aria-hidden="true" onMouseMove={(event) => onPoint(at(event))} onMouseLeave={() => onPoint(null)} />
    </div>
  );
}

interface CellSize {
  width: number;
  height: number;
}

function sizeOf(heat: Heat, width: number): CellSize {
  const one = Math.min(Math.max(Math.floor(width / Math.max(heat.columns, 1)), LEAST_WIDTH), MOST_WIDTH);
  return { width: one, height: Math.min(Math.max(Math.round(320 / Math.max(heat.shares.length, 1)), 6), 18) };
}

function draw(canvas: HTMLCanvasElement, heat: Heat, size: CellSize, chosen: Cell | null): void {
  const scale = devicePixelRatio || 1;
  const [width, height] = [heat.columns * size.width, heat.shares.length * size.height];
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  if (!pen) return;
  pen.scale(scale, scale);
  const style = getComputedStyle(canvas);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const ground = colour("--sunken");
  const ink = colour("--series-1");
  heat.shares.forEach((row, line) => {
    row.forEach((share, place) => {
      const box = [place * size.width, line * size.height, size.width - GAP, size.height - GAP] as const;
      pen.globalAlpha = 1;
      pen.fillStyle = ground;
      pen.fillRect(...box);
      pen.globalAlpha = levelOf(share) / (LEVELS.length - 1);
      pen.fillStyle = ink;
      pen.fillRect(...box);
    });
  });
  if (chosen) {
    pen.globalAlpha = 1;
    pen.strokeStyle = colour("--text");
    pen.lineWidth = 1.5;
    pen.strokeRect(chosen.column * size.width - 0.5, chosen.row * size.height - 0.5, size.width, size.height);
  }
}

function Legend() {
  return (
    <span class="usage-legend" aria-hidden="true">
      {LEVELS.map((bound, level) => (
        <span key={bound} class="usage-legend-step">
          <span class={`usage-heat-${level}`} />
          {level === 0 ? "0" : level === LEVELS.length - 1 ? `≥ ${count(bound, 2)}×` : level === 1 ? "> 0" : `${count(bound, 2)}×`}
        </span>
      ))}
    </span>
  );
}
