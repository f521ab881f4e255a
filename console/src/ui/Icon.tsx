/** Outlines of 24 by 24, drawn in the colour of the text. */
const PATHS = {
  chat: "M4 5h16v11H9l-5 4z",
  images: "M4 5h16v14H4zM8 9.500v.01M4 17l5-5 4 4 3-3 4 4",
  models: "M12 3l8 4.500v9L12 21l-8-4.500v-9zM4 7.500l8 4.5 8-4.500M12 12v9",
  rollouts: "M4 18c5 0 4-12 9-12h6M15 2l4 4-4 4M4 18h14M15 14l4 4-4 4",
  knowledge: "M5 4h10a3 3 0 0 1 3 3v13H8a3 3 0 0 1-3-3zM5 17a3 3 0 0 1 3-3h10M9 8h5",
  agents: "M7 8h10v9H7zM12 8V4M9.500 12v.5M14.500 12v.5M4 11v3M20 11v3M10 15h4",
  jobs: "M4 6h10M4 12h16M4 18h7M17 4l3 2-3 2z",
  safety: "M12 3l8 3v6c0 4.5-3.4 7.7-8 9-4.6-1.3-8-4.5-8-9V6zM8.5 12l2.5 2.5 4.5-5",
  batches: "M4 8l8-4 8 4-8 4zM4 12l8 4 8-4M4 16l8 4 8-4",
  labelling: "M4 5h9l7 7-8 8-8-8zM9 9.500v.01",
  ratings: "M12 4v16M8 20h8M5 7h14M5 7l-3 7h6zM19 7l-3 7h6z",
  usage: "M4 20V4M4 20h16M8 16v-4M12 16V8M16 16v-6",
  menu: "M4 7h16M4 12h16M4 17h16",
  close: "M6 6l12 12M18 6L6 18",
  plus: "M12 5v14M5 12h14",
  send: "M12 20V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h10v11H9zM5 15V4h10",
  edit: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  retry: "M5 12a7 7 0 1 0 2.3-5.200M5 4v4h4",
  up: "M8 11v9H4v-9zM8 11l4-7c1.5 0 2.5 1 2.2 2.500L13.5 10H19c1 0 1.7 1 1.4 2l-1.9 7c-.2.6-.8 1-1.4 1H8",
  down: "M16 13V4h4v9zM16 13l-4 7c-1.5 0-2.5-1-2.2-2.500l.7-3.500H5c-1 0-1.7-1-1.4-2l1.9-7C5.7 4.4 6.3 4 6.9 4H16",
  left: "M15 5l-7 7 7 7",
  right: "M9 5l7 7-7 7",
  attach: "M18 11l-7 7a4 4 0 0 1-6-6l8-8a3 3 0 0 1 4 4l-8 8a1 1 0 0 1-1.5-1.500L14 8",
  sliders: "M4 8h8M16 8h4M4 16h4M12 16h8M14 6v4M10 14v4",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  key: "M8 15a4 4 0 1 1 3.5-5.900L20 9v3h-2v3h-3v-3h-3.500A4 4 0 0 1 8 15z",
  check: "M5 12l5 5 9-10",
  warn: "M12 4l9 16H3zM12 10v4M12 17v.5",
  search: "M10.5 4a6.5 6.5 0 1 1 0 13 6.5 6.5 0 0 1 0-13zM15.5 15.500L20 20",
  tool: "M14 6a4 4 0 0 0-5 5l-5 5 4 4 5-5a4 4 0 0 0 5-5l-3 2-2-2z",
  theme: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  language: "M4 6h9M8.5 4v2M11 6c-1 4-3.5 6.5-7 8M6 9c1 2.5 3 4 6 5M12 20l4-10 4 10M13.5 17h5",
  microphone: "M12 3a3 3 0 0 1 3 3v5a3 3 0 0 1-6 0V6a3 3 0 0 1 3-3zM6 11a6 6 0 0 0 12 0M12 17v4M9 21h6",
  listen: "M4 10v4h3l5 4V6L7 10zM15.5 9a4 4 0 0 1 0 6M18 6.500a8 8 0 0 1 0 11",
  vary: "M4 7h4l8 10h4M4 17h4l2.500-3M13.500 10L16 7h4M18 5l2 2-2 2M18 15l2 2-2 2",
  expand: "M6 9l6 6 6-6",
  more: "M6 12h.01M12 12h.01M18 12h.01",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  upload: "M12 16V5M7 9l5-5 5 5M5 20h14",
  list: "M4 6h4v12H4zM11 6h9M11 12h9M11 18h9",
} as const;

export type IconName = keyof typeof PATHS;

/** A picture beside a text, or in a button that has a label; screen readers skip it. */
export function Icon({ name, size = 18 }: { name: IconName; size?: number }) {
  return (
    <svg class="icon" width={size} height={size} viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
