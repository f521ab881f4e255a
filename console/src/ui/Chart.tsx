import { useEffect, useRef } from "preact/hooks";
import type uPlot from "uplot";
import { language, t } from "../i18n";
import { theme } from "../state/theme";

export interface Series {
  name: string;
  /** One value for each x; null leaves a gap. */
  values: readonly (number | null)[];
}

export interface ChartProps {
  /** What is shown, for screen readers and above the picture. */
  label: string;
  /** Ascending; Unix seconds if `time`. */
  x: readonly number[];
  series: readonly Series[];
  time?: boolean;
  bars?: boolean;
  height?: number;
  /** Says a value with its unit: "12 ms". */
  format?: (value: number) => string;
}

const COLOURS = ["--series-1", "--series-2", "--series-3", "--series-4", "--series-5", "--series-6"];
const MOST_ROWS = 200; // of the table that says the same to screen readers

/** Lines or bars over time or another x, in the colours of the page; the library comes with the first chart. */
export function Chart(props: ChartProps) {
  const frame = useRef<HTMLDivElement>(null);
  const { label, x, series, time = false, bars = false, height = 180, format = String } = props;
  const names = JSON.stringify(series.map((one) => one.name));
  const plot = useRef<uPlot | null>(null);
  const data = [x, ...series.map((one) => one.values)] as unknown as uPlot.AlignedData;
  const latest = useRef(data);
  latest.current = data;
  const shown = theme.value;
  const said = language.value;

  useEffect(() => {
    const host = frame.current;
    if (!host) return;
    let gone = false;
    let watching: ResizeObserver | undefined;
    const draw = async () => {
      const { makePlot } = await import("./plot");
      if (gone) return;
      const style = getComputedStyle(host);
      const colours = COLOURS.map((name) => style.getPropertyValue(name).trim());
      const options = { names: JSON.parse(names) as string[], colours, time, bars, height, format, language: said };
      plot.current = makePlot(host, latest.current, options);
      watching = new ResizeObserver(() => plot.current?.setSize({ width: host.clientWidth, height }));
      watching.observe(host);
    };
    void draw();
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const redraw = () => {
      plot.current?.destroy();
      void draw();
    };
    dark.addEventListener("change", redraw);
    return () => {
      gone = true;
      dark.removeEventListener("change", redraw);
      watching?.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [names, time, bars, height, shown, said]);

  useEffect(() => {
    plot.current?.setData(latest.current);
  }, [x, series]);

  const from = Math.max(0, x.length - MOST_ROWS);
  return (
    <figure class="chart">
      <figcaption>
        {label}
        {series.length > 1 && (
          <span class="chart-key">
            {series.map((one, place) => (
              <span key={one.name} class={`chart-name series-${(place % COLOURS.length) + 1}`}>
                {one.name}
              </span>
            ))}
          </span>
        )}
      </figcaption>
      <div ref={frame} class="chart-frame" aria-hidden="true" />
      <details class="chart-values">
        <summary>{t("chart.values")}</summary>
        <div class="table-frame" tabIndex={0} role="region" aria-label={label}>
          <table class="table">
            <thead>
              <tr>
                <th scope="col">x</th>
                {series.map((one) => (
                  <th key={one.name} scope="col" class="number">
                    {one.name}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {x.slice(from).map((value, place) => (
                <tr key={value}>
                  <td>{time ? new Date(value * 1000).toISOString().slice(0, 19).replace("T", " ") : value}</td>
                  {series.map((one) => {
                    const found = one.values[from + place];
                    return (
                      <td key={one.name} class="number">
                        {found === null || found === undefined ? "" : format(found)}
                      </td>
                    );
                  })}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </details>
    </figure>
  );
}
