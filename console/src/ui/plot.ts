import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

export interface PlotOptions {
  names: readonly string[];
  colours: readonly string[];
  time: boolean;
  bars: boolean;
  height: number;
  format: (value: number) => string;
  language: string;
}

/** Draws a chart into an element. The colours of axes and grid are those of the element. */
export function makePlot(host: HTMLElement, data: uPlot.AlignedData, options: PlotOptions): uPlot {
  const style = getComputedStyle(host);
  const text = style.getPropertyValue("--muted").trim();
  const line = style.getPropertyValue("--line").trim();
  const font = `11px ${style.fontFamily}`;
  const axis = { stroke: text, font, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 } };
  const paths = options.bars ? uPlot.paths.bars?.({ size: [0.7, 40] }) : undefined;
  const day = new Intl.DateTimeFormat(options.language, { month: "short", day: "numeric" });
  const hours = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" } as const;
  const clock = new Intl.DateTimeFormat(options.language, hours);
  const second = new Intl.DateTimeFormat(options.language, { ...hours, second: "2-digit" });
  const times = (_: uPlot, splits: number[], __: number, ___: number, step: number) =>
    splits.map((at) => (step >= 86_400 ? day : step >= 60 ? clock : second).format(at * 1000));
  return new uPlot(
    {
      width: Math.max(host.clientWidth, 120),
      height: options.height,
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false } },
      scales: { x: { time: options.time }, y: { range: (_, low, high) => rangeOf(low, high) } },
      axes: [
        { ...axis, space: 80, ...(options.time ? { values: times } : {}) },
        { ...axis, size: 62, values: (_, splits) => splits.map(options.format) },
      ],
      series: [
        {},
        ...options.names.map((label, place) => {
          const colour = options.colours[place % options.colours.length] ?? text;
          return {
            label,
            stroke: colour,
            width: 1.5,
            fill: options.bars ? colour : undefined,
            paths,
            points: { show: data[0].length < 2 },
          };
        }),
      ],
    },
    data,
    host,
  );
}

/** Begins at zero, so that heights compare, and leaves room above. */
function rangeOf(low: number, high: number): [number, number] {
  const top = high > 0 ? high * 1.08 : 1;
  return [Math.min(0, low), Number.isFinite(top) ? top : 1];
}
