export interface ClassCount {
  name: string;
  count: number;
}

export interface Project {
  id: string;
  name: string;
  classes: ClassCount[];
  strategy: Strategy;
  items: number;
  labelled: number;
  skipped: number;
  unreadable: number;
  /** Whether further labels change little of what the learner says. */
  stable: boolean;
  created_at: number;
}

export interface Item {
  index: number;
  text: string;
  suggestion: string | null;
  probability: number | null;
}

export interface Following {
  data: Item[];
  project: Project;
}

export interface Undone {
  item: Item | null;
  project: Project;
}

export const STRATEGIES = ["margin", "entropy", "random"] as const;
export type Strategy = (typeof STRATEGIES)[number];

export const PROJECTS = "/v1/labelling/projects";

/** The path of a project, and what follows it. */
export function pathOf(id: string, part = ""): string {
  return `${PROJECTS}/${encodeURIComponent(id)}${part && `/${part}`}`;
}
